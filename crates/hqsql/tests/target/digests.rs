use std::collections::BTreeMap;

use hqsql::{Alone, Documents, Target};
use proto::ids::Domain;

use crate::database::{EPOCH, Fixture, SHARD, domain};
use crate::rows::{attachment, case, form, operation};

/// All digests, read in pages of this size; checks the order of ids.
async fn read(target: &Target, documents: Documents, domain: &Domain, page: u16) -> BTreeMap<String, i64> {
    let mut all = Vec::new();
    for shard in target.shards() {
        let mut digests = target.digests(shard, documents, domain).await.unwrap();
        loop {
            let found = digests.next(page).await.unwrap();
            if found.is_empty() {
                break;
            }
            all.extend(found);
        }
    }
    let ids: Vec<&str> = all.iter().map(|(id, _)| id.as_str()).collect();
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    assert_eq!(ids, sorted, "in the order of bytes");
    all.into_iter().collect()
}

fn changed(before: &BTreeMap<String, i64>, after: &BTreeMap<String, i64>) -> Vec<String> {
    let mut ids: Vec<String> = before
        .iter()
        .filter(|(id, digest)| after.get(*id) != Some(digest))
        .map(|(id, _)| id.clone())
        .collect();
    ids.extend(after.keys().filter(|id| !before.contains_key(*id)).cloned());
    ids
}

#[tokio::test]
async fn a_digest_changes_with_any_row_of_its_document_and_with_no_other() {
    let fixture = Fixture::new().await;
    let (target, shard) = (&fixture.target, SHARD(&fixture.target));
    target.open_fence(&Alone, &"other".into(), EPOCH).await.unwrap();
    for (name, prefix) in [(domain(), "a"), ("other".into(), "b")] {
        // Upper case sorts before lower case by bytes, whatever the database's locale says.
        let ids: Vec<String> = ["z", "B", "c", "é"].iter().map(|id| format!("{id}{prefix}")).collect();
        let mut forms: Vec<_> = ids.iter().map(|id| form(id)).collect();
        let mut cases: Vec<_> = ids.iter().map(|id| case(id)).collect();
        for (number, (form, case)) in (1_u128..).zip(forms.iter_mut().zip(&mut cases)) {
            case.attachments = vec![attachment("face", number + u128::from(prefix.as_bytes()[0]) * 100)];
            form.form.domain = name.to_string();
            form.operations = vec![operation("archive", 1)];
            case.case.domain = name.to_string();
        }
        let tx = target.begin(shard, &name, EPOCH).await.unwrap();
        tx.merge_forms(&forms).await.unwrap();
        tx.merge_cases(&cases, &[]).await.unwrap();
        tx.commit().await.unwrap();
    }
    let name = domain();
    let mut forms = read(target, Documents::Forms, &name, 2).await;
    let mut cases = read(target, Documents::Cases, &name, 3).await;
    assert_eq!(forms.keys().collect::<Vec<_>>(), ["Ba", "ca", "za", "éa"]);
    assert_eq!(cases.keys().collect::<Vec<_>>(), ["Ba", "ca", "za", "éa"]);
    assert_eq!(read(target, Documents::Forms, &name, 100).await, forms);

    for (change, form_changed, case_changed) in [
        (
            "update form_processor_xforminstancesql set state = 2 where form_id = 'ca'",
            Some("ca"),
            None,
        ),
        (
            "update form_processor_xformoperationsql set user_id = null where form_id = 'za'",
            Some("za"),
            None,
        ),
        // Equal values in a new row are another row.
        (
            "with gone as (delete from form_processor_xformoperationsql where form_id = 'Ba' returning form_id, user_id, operation, date) \
          insert into form_processor_xformoperationsql (form_id, user_id, operation, date) select * from gone",
            Some("Ba"),
            None,
        ),
        (
            "update form_processor_commcarecasesql set name = 'x' where case_id = 'Ba'",
            None,
            Some("Ba"),
        ),
        (
            "delete from form_processor_commcarecaseindexsql where case_id = 'ca'",
            None,
            Some("ca"),
        ),
        (
            "update form_processor_caseattachmentsql set name = 'x' where case_id = 'za'",
            None,
            Some("za"),
        ),
        (
            "update form_processor_casetransaction set revoked = not revoked where case_id = 'éa'",
            None,
            Some("éa"),
        ),
        (
            "update form_processor_ledgervalue set balance = balance + 1 where case_id = 'ca'",
            None,
            Some("ca"),
        ),
        (
            "delete from form_processor_ledgertransaction where case_id = 'za'",
            None,
            Some("za"),
        ),
        (
            "delete from form_processor_xformoperationsql where form_id = 'ca'; delete from form_processor_xforminstancesql where form_id = 'ca'",
            Some("ca"),
            None,
        ),
        (
            "update form_processor_xforminstancesql set state = 2 where domain = 'other'",
            None,
            None,
        ),
    ] {
        fixture.rows(change).await;
        let (forms_now, cases_now) = (
            read(target, Documents::Forms, &name, 2).await,
            read(target, Documents::Cases, &name, 2).await,
        );
        assert_eq!(
            changed(&forms, &forms_now),
            form_changed.into_iter().collect::<Vec<_>>(),
            "{change}"
        );
        assert_eq!(
            changed(&cases, &cases_now),
            case_changed.into_iter().collect::<Vec<_>>(),
            "{change}"
        );
        (forms, cases) = (forms_now, cases_now);
    }
}
