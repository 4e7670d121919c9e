#![allow(clippy::unwrap_used)]
use super::*;
use crate::blocks::DEVICE_REPORT_XMLNS;
use crate::error::FormError;

const RECEIVED: &str = "2019-03-02T08:15:00.12Z";

/// The instructions of a form with these elements in it, one text each.
fn read(blocks: &str) -> Result<Vec<String>, LedgerError> {
    let xml = format!("<data xmlns='F' xmlns:l='{LEDGER_XMLNS}'>{blocks}</data>");
    let instructions = ledger_updates(xml.as_bytes(), RECEIVED.parse().unwrap())?;
    Ok(instructions.iter().map(written).collect())
}

/// `kind case section entry quantity date type`, with what is usual left out.
fn written(instruction: &LedgerInstruction) -> String {
    let update = &instruction.update;
    let kind = match update.kind {
        LedgerKind::Balance => "=",
        LedgerKind::TransferOut => "-",
        LedgerKind::TransferIn => "+",
    };
    let mut text = format!(
        "{} {}/{} {kind}{}",
        instruction.case_id, update.section_id, update.entry_id, update.quantity
    );
    if update.report_date != RECEIVED.parse::<DateTime<Utc>>().unwrap() {
        text += &format!(" {}", update.report_date.format("%Y-%m-%dT%H:%M:%S%.f"));
    }
    if let Some(name) = &update.user_defined_type {
        text += &format!(" {name}");
    }
    text
}

fn expect(table: &[(&str, &[&str])]) {
    for (blocks, expected) in table {
        assert_eq!(read(blocks).unwrap(), *expected, "{blocks}");
    }
}

#[test]
fn reads_both_layouts() {
    expect(&[
        // One section for the block, the quantity at the entry. The documented sample.
        (
            "<balance xmlns='http://commcarehq.org/ledger/v1' entity-id='C' date='2014-08-04' section-id='stock'>
               <entry id='P1' quantity='5'/><entry id='P2' quantity='0'/></balance>",
            &["C stock/P1 =5 2014-08-04T00:00:00", "C stock/P2 =0 2014-08-04T00:00:00"],
        ),
        // A section for each value. The documented sample.
        (
            "<transfer xmlns='http://commcarehq.org/ledger/v1' src='A' dest='B' date='2014-08-04' type='loan'>
               <entry id='P1'><value section-id='stock' quantity='3'/><value section-id='emergency' quantity='1'/></entry>
             </transfer>",
            &[
                "A stock/P1 -3 2014-08-04T00:00:00 loan",
                "B stock/P1 +3 2014-08-04T00:00:00 loan",
                "A emergency/P1 -1 2014-08-04T00:00:00 loan",
                "B emergency/P1 +1 2014-08-04T00:00:00 loan",
            ],
        ),
        // The individual layout does not look at values.
        (
            "<l:balance entity-id='C' section-id='s'><l:entry id='P' quantity='5'><l:value section-id='t' quantity='7'/></l:entry></l:balance>",
            &["C s/P =5"],
        ),
        // Nor the other layout at the quantity of the entry.
        (
            "<l:balance entity-id='C'><l:entry id='P' quantity='5'><l:value section-id='t' quantity='7'/></l:entry></l:balance>",
            &["C t/P =7"],
        ),
        ("<l:balance entity-id='C'><l:entry id='P' quantity='5'/></l:balance>", &[]),
        // An empty section selects the layout per entry; there an empty section is a section.
        (
            "<l:balance entity-id='C' section-id=''><l:entry id='P' quantity='5'><l:value section-id='' quantity='7'/></l:entry></l:balance>",
            &["C /P =7"],
        ),
        // Any section counts, and several entries with several values.
        (
            "<l:balance entity-id='C'><l:entry id='P'><l:value section-id='a' quantity='1'/><l:value section-id='b' quantity='2'/></l:entry>
               <l:entry id='Q'><l:value section-id='a' quantity='3'/></l:entry></l:balance>",
            &["C a/P =1", "C b/P =2", "C a/Q =3"],
        ),
        ("<l:balance entity-id='C' section-id='s'/>", &[]),
        // The names of entries and values count, not their namespaces.
        (
            "<l:balance entity-id='C' section-id='s'><entry id='P' quantity='1'/><l:entry id='Q' quantity='2'/></l:balance>",
            &["C s/P =1", "C s/Q =2"],
        ),
        // An attribute with a prefix is another attribute.
        ("<l:balance entity-id='C' section-id='s'><l:entry id='P' l:quantity='1'/></l:balance>", &[]),
    ]);
}

#[test]
fn finds_blocks_anywhere_in_document_order() {
    let entry = "<l:entry id='P' quantity='1'/>";
    let balance = |case_id: &str| format!("<l:balance entity-id='{case_id}' section-id='s'>{entry}</l:balance>");
    let transfer = |case_id: &str| format!("<l:transfer dest='{case_id}' section-id='s'>{entry}</l:transfer>");
    let found = |blocks: &str| read(blocks).unwrap();

    // In the JSON both balances would stand in one list, before the transfer.
    let mixed = format!("{}<g>{}</g>{}", balance("1"), transfer("2"), balance("3"));
    assert_eq!(found(&mixed), ["1 s/P =1", "2 s/P +1", "3 s/P =1"]);
    // Deep down, in repeats and in case blocks.
    let deep = format!(
        "<a><case case_id='c'><b>{}</b></case></a><a>{}</a>",
        balance("1"),
        balance("2")
    );
    assert_eq!(found(&deep), ["1 s/P =1", "2 s/P =1"]);
    // Not below a block that was found.
    let nested = format!(
        "<l:balance entity-id='1' section-id='s'>{entry}{}</l:balance>",
        balance("2")
    );
    assert_eq!(found(&nested), ["1 s/P =1"]);
    let after = format!("<l:balance entity-id='1'>{}</l:balance>{}", balance("2"), balance("3"));
    assert_eq!(found(&after), ["3 s/P =1"]);
    // Other namespaces, and other names in the namespace.
    for other in ["balance", "x:balance", "l:report", "l:Balance"] {
        let block = format!("<{other} xmlns:x='x' entity-id='1' section-id='s'>{entry}</{other}>");
        assert_eq!(found(&block), [""; 0], "{other}");
    }
    for other in [
        "http://commtrack.org/stock_report",
        "http://commtrack.org/supply_point",
        "http://commtrack.org/legacy/stock_report",
        "http://commcarehq.org/ledger/v1/",
    ] {
        let block = format!("<balance xmlns='{other}' entity-id='1' section-id='s'>{entry}</balance>");
        assert_eq!(found(&block), [""; 0], "{other}");
    }
}

#[test]
fn the_root_is_no_block_and_a_device_report_has_none() {
    let block = "<l:balance entity-id='C' section-id='s'><l:entry id='P' quantity='1'/></l:balance>";
    let count = |xml: String| ledger_updates(xml.as_bytes(), RECEIVED.parse().unwrap()).unwrap().len();
    let ns = LEDGER_XMLNS;
    assert_eq!(
        count(format!(
            "<l:balance xmlns:l='{ns}' entity-id='C' section-id='s'><l:entry id='P' quantity='1'/></l:balance>"
        )),
        0
    );
    assert_eq!(count(format!("<l:balance xmlns:l='{ns}'>{block}</l:balance>")), 1);
    assert_eq!(
        count(format!("<d xmlns='{DEVICE_REPORT_XMLNS}' xmlns:l='{ns}'>{block}</d>")),
        0
    );
    // Only the form's own namespace makes it a device report.
    assert_eq!(
        count(format!(
            "<d xmlns:l='{ns}'><r xmlns='{DEVICE_REPORT_XMLNS}'>{block}</r></d>"
        )),
        1
    );
    // Nor does a broken block in a device report fail it.
    assert_eq!(
        count(format!(
            "<d xmlns='{DEVICE_REPORT_XMLNS}' xmlns:l='{ns}'><l:balance date='x'/></d>"
        )),
        0
    );
}

#[test]
fn dates() {
    let dated = |date: &str| {
        read(&format!(
            "<l:balance entity-id='C' section-id='s' date='{date}'><l:entry id='P' quantity='1'/></l:balance>"
        ))
    };
    for (date, expected) in [
        ("", ""),
        ("2014-08-04", " 2014-08-04T00:00:00"),
        ("2014-08-04T10:11:12.500Z", " 2014-08-04T10:11:12.500"),
        ("2014-08-04T10:11:12Z", " 2014-08-04T10:11:12"),
        ("2014-08-04 10:11", " 2014-08-04T10:11:00"),
        // The zone is converted, as in every other date-time of the form.
        ("2014-08-04T01:00:00.000+05:30", " 2014-08-03T19:30:00"),
        // All that iso8601 reads, whether or not the loose pattern of other texts would match.
        ("2014-08-04T10:11:12.5Z", " 2014-08-04T10:11:12.500"),
        ("2014-8-4", " 2014-08-04T00:00:00"),
        ("20140804", " 2014-08-04T00:00:00"),
        ("2014-08", " 2014-08-01T00:00:00"),
        ("2014-02-30", "invalid"),
        ("2014-08-014", "invalid"),
        ("08/04/2014", "invalid"),
        ("yesterday", "invalid"),
        ("10:11:12", "invalid"),
        ("12.5", "invalid"),
        (" 2014-08-04", "invalid"),
    ] {
        let found = match dated(date) {
            Ok(found) => found[0].strip_prefix("C s/P =1").unwrap().to_owned(),
            Err(LedgerError::InvalidDate) => "invalid".to_owned(),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(found, expected, "{date}");
    }
    assert_eq!(
        dated("0001-01-01T00:00:00+05:00"),
        Err(LedgerError::Value(FormError::DateOutOfRange))
    );
    // The date of a block without any entry is checked too.
    assert_eq!(read("<l:balance date='x'/>"), Err(LedgerError::InvalidDate));
}

#[test]
fn quantities_go_through_a_float() {
    for (text, expected) in [
        ("5", "5"),
        ("5.0", "5"),
        ("005", "5"),
        ("2.50", "2.5"),
        ("-3", "-3"),
        ("-0", "0"),
        ("0.0", "0"),
        ("1e3", "1000"),
        ("1e22", "10000000000000000000000"),
        ("1e-7", "0.0000001"),
        ("0.1", "0.1"),
        // Sixteen digits and more are those of the nearest float.
        ("0.30000000000000004", "0.30000000000000004"),
        ("9007199254740993", "9007199254740992"),
        ("1.00000000000000000001", "1"),
        (" 7 ", "7"),
    ] {
        let block = format!("<l:balance entity-id='C' section-id='s'><l:entry id='P' quantity='{text}'/></l:balance>");
        assert_eq!(read(&block).unwrap(), [format!("C s/P ={expected}")], "{text}");
    }
}

#[test]
fn an_instruction_without_a_number_is_dropped_alone() {
    expect(&[
        (
            "<l:balance entity-id='C' section-id='s'><l:entry id='P'/><l:entry id='Q' quantity=''/>
               <l:entry id='R' quantity='many'/><l:entry id='S' quantity='4'/><l:entry id='T' quantity='2014-08-04'/></l:balance>",
            &["C s/S =4"],
        ),
        (
            "<l:transfer src='A' dest='B'><l:entry id='P'><l:value section-id='s' quantity='x'/><l:value section-id='t' quantity='1'/></l:entry></l:transfer>",
            &["A t/P -1", "B t/P +1"],
        ),
        // With it go the faults that would fail the form.
        ("<l:balance section-id='s'><l:entry quantity='x'/></l:balance>", &[]),
        ("<l:transfer src='' dest='B' section-id='s'><l:entry quantity=''/></l:transfer>", &[]),
    ]);
}

#[test]
fn sides_of_a_transfer() {
    let sides = |sides: &str| {
        read(&format!(
            "<l:transfer {sides} section-id='s'><l:entry id='P' quantity='2'/></l:transfer>"
        ))
    };
    assert_eq!(sides("src='A'").unwrap(), ["A s/P -2"]);
    assert_eq!(sides("dest='B'").unwrap(), ["B s/P +2"]);
    assert_eq!(sides("dest='B' src='A'").unwrap(), ["A s/P -2", "B s/P +2"]);
    assert_eq!(sides("src='A' dest='A'").unwrap(), ["A s/P -2", "A s/P +2"]);
    // Between no cases: skipped while migrating.
    for neither in ["", "src=''", "dest=''", "src='' dest=''"] {
        assert_eq!(sides(neither).unwrap(), [""; 0], "{neither}");
    }
    // An empty side is a side when the other one is there, and no case has an empty id.
    assert_eq!(sides("src='' dest='B'"), Err(LedgerError::MissingCaseId));
    assert_eq!(sides("src='A' dest=''"), Err(LedgerError::MissingCaseId));
    // The entity is no side, and sides are no entity.
    assert_eq!(sides("entity-id='C'").unwrap(), [""; 0]);
    assert_eq!(
        read("<l:balance src='A' section-id='s'><l:entry id='P' quantity='2'/></l:balance>"),
        Err(LedgerError::MissingCaseId)
    );
}

#[test]
fn user_defined_types() {
    let balance = |name: &str, quantity: &str| {
        format!(
            "<l:balance entity-id='C' type='{name}' section-id='s'><l:entry id='P' quantity='{quantity}'/></l:balance>"
        )
    };
    let transfer = |name: &str| {
        format!("<l:transfer src='A' dest='B' type='{name}' section-id='s'><l:entry id='P' quantity='2'/></l:transfer>")
    };
    for (block, expected) in [
        (balance("", "1"), vec!["C s/P =1"]),
        (balance("count", "1"), vec!["C s/P =1 count"]),
        // A type that is the name of the very action says nothing.
        (balance("stockonhand", "1"), vec!["C s/P =1"]),
        (balance("stockonhand", "0"), vec!["C s/P =0 stockonhand"]),
        (balance("stockout", "0"), vec!["C s/P =0"]),
        (balance("stockout", "-1"), vec!["C s/P =-1"]),
        (balance("stockout", "1"), vec!["C s/P =1 stockout"]),
        (transfer("consumption"), vec!["A s/P -2", "B s/P +2 consumption"]),
        (transfer("receipts"), vec!["A s/P -2 receipts", "B s/P +2"]),
        (
            transfer("lossoradjustment"),
            vec!["A s/P -2 lossoradjustment", "B s/P +2 lossoradjustment"],
        ),
        // Twenty characters, not bytes.
        (
            balance("éééééééééééééééééééé1", "1"),
            vec!["C s/P =1 éééééééééééééééééééé"],
        ),
    ] {
        assert_eq!(read(&block).unwrap(), expected, "{block}");
    }
}

#[test]
fn an_entry_without_id_is_skipped_in_a_balance_and_an_error_in_a_transfer() {
    for id in ["", "id=''"] {
        let entries = format!("<l:entry {id} quantity='1'/><l:entry id='P' quantity='2'/>");
        // Without a case either: the skipped instruction has no faults.
        let lone = format!("<l:balance section-id='s'><l:entry {id} quantity='1'/></l:balance>");
        assert_eq!(read(&lone).unwrap(), [""; 0]);
        let balance = format!("<l:balance entity-id='C' section-id='s'>{entries}</l:balance>");
        assert_eq!(read(&balance).unwrap(), ["C s/P =2"]);
        let transfer = format!("<l:transfer src='A' section-id='s'>{entries}</l:transfer>");
        assert_eq!(read(&transfer), Err(LedgerError::MissingEntryId));
        // Skipped before its entry is looked at.
        let neither = format!("<l:transfer section-id='s'>{entries}</l:transfer>");
        assert_eq!(read(&neither).unwrap(), [""; 0]);
    }
}

#[test]
fn faults_fail_the_form() {
    let long = "x".repeat(101);
    let long_case = "x".repeat(256);
    let too_long = |what, maximum| LedgerError::TooLong { what, maximum };
    for (block, expected) in [
        (
            "<l:balance section-id='s'><l:entry id='P' quantity='1'/></l:balance>".to_owned(),
            LedgerError::MissingCaseId,
        ),
        (
            "<l:balance entity-id='' section-id='s'><l:entry id='P' quantity='1'/></l:balance>".to_owned(),
            LedgerError::MissingCaseId,
        ),
        (
            "<l:balance entity-id='C'><l:entry id='P'><l:value quantity='1'/></l:entry></l:balance>".to_owned(),
            LedgerError::MissingSection,
        ),
        (
            "<l:balance entity-id='C' section-id='s'><l:entry id='P' quantity='nan'/></l:balance>".to_owned(),
            LedgerError::NotFinite,
        ),
        (
            "<l:transfer src='C' section-id='s'><l:entry id='P' quantity='-inf'/></l:transfer>".to_owned(),
            LedgerError::NotFinite,
        ),
        (
            "<l:transfer src='C' section-id='s'><l:entry id='P' quantity='1e999'/></l:transfer>".to_owned(),
            LedgerError::NotFinite,
        ),
        (
            format!("<l:balance entity-id='{long_case}' section-id='s'><l:entry id='P' quantity='1'/></l:balance>"),
            too_long("a case id", 255),
        ),
        (
            format!("<l:balance entity-id='C' section-id='{long}'><l:entry id='P' quantity='1'/></l:balance>"),
            too_long("a section id", 100),
        ),
        (
            format!("<l:balance entity-id='C' section-id='s'><l:entry id='{long}' quantity='1'/></l:balance>"),
            too_long("an entry id", 100),
        ),
        ("<l:balance/>".to_owned(), LedgerError::NotObject { what: "balance" }),
        (
            "<l:transfer> </l:transfer>".to_owned(),
            LedgerError::NotObject { what: "transfer" },
        ),
        (
            "<l:balance entity-id='C' section-id='s'><l:entry/></l:balance>".to_owned(),
            LedgerError::NotObject { what: "entry" },
        ),
        (
            "<l:balance entity-id='C'><l:entry id='P'><l:value>1</l:value></l:entry></l:balance>".to_owned(),
            LedgerError::NotObject { what: "value" },
        ),
    ] {
        assert_eq!(read(&block), Err(expected), "{block}");
    }
    // What fits exactly is kept, in characters.
    let fits = format!(
        "<l:balance entity-id='{}' section-id='{1}'><l:entry id='{1}' quantity='1'/></l:balance>",
        "é".repeat(255),
        "é".repeat(100)
    );
    assert_eq!(read(&fits).unwrap().len(), 1);
    assert_eq!(
        ledger_updates(b"<d", RECEIVED.parse().unwrap()).unwrap_err().code(),
        "C2S-2001"
    );
}

#[test]
fn instructions_are_bounded() {
    let entries = |count| "<l:entry id='P' quantity='1'/>".repeat(count);
    let balance = |count| {
        read(&format!(
            "<l:balance entity-id='C' section-id='s'>{}</l:balance>",
            entries(count)
        ))
    };
    assert_eq!(balance(MAX_LEDGER_INSTRUCTIONS).unwrap().len(), MAX_LEDGER_INSTRUCTIONS);
    let maximum = MAX_LEDGER_INSTRUCTIONS;
    assert_eq!(
        balance(MAX_LEDGER_INSTRUCTIONS + 1),
        Err(LedgerError::TooMany { maximum })
    );
}

#[test]
fn one_reading_gives_both() {
    let xml = format!(
        "<d xmlns='F'><a>2015-08-04 18:25</a><l:balance xmlns:l='{LEDGER_XMLNS}' entity-id='C' section-id='s'>\
         <l:entry id='P' quantity='1'/></l:balance></d>"
    );
    let form = crate::read_form(xml.as_bytes()).unwrap();
    assert_eq!(form.body, crate::form_json(xml.as_bytes()).unwrap());
    assert!(!form.ledgers.is_empty());
    let received_on = RECEIVED.parse().unwrap();
    assert_eq!(
        form.ledgers.instructions(received_on).unwrap(),
        ledger_updates(xml.as_bytes(), received_on).unwrap()
    );
    assert!(
        crate::read_form(b"<d xmlns='F'><balance/></d>")
            .unwrap()
            .ledgers
            .is_empty()
    );
}
