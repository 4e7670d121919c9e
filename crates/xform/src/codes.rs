//! Every failure of this crate with its remedy.

/// Every code of this crate: code, what happened, what to do.
pub const CODES: &[(&str, &str, &str)] = &[
    (
        "C2S-2001",
        "form.xml is not well-formed XML",
        "Look at the form's XML in HQ. If the blob is damaged restore it; if HQ shows the form as an error, exclude the form.",
    ),
    (
        "C2S-2002",
        "form.xml is not text in its declared encoding",
        "Restore the blob from a back-up, or correct the encoding in its XML declaration.",
    ),
    (
        "C2S-2003",
        "form.xml declares a document type",
        "Check who submitted it: no CommCare client does this. Remove the declaration from the blob and migrate the form again.",
    ),
    (
        "C2S-2004",
        "form.xml is larger, deeper or richer in elements than any form may be",
        "Check that the blob really is this form. Report the limit if a genuine form exceeds it.",
    ),
    (
        "C2S-2005",
        "form.xml has a processing instruction inside its root",
        "HQ cannot read such a form either. Remove the instruction from the blob and migrate the form again.",
    ),
    (
        "C2S-2006",
        "the root element of form.xml holds only text",
        "The blob is no form. Restore the right XML, or archive the form in HQ.",
    ),
    (
        "C2S-2010",
        "a date-time of the form falls outside the years 1 to 9999 in UTC",
        "Correct the date-time in the form's XML and migrate the form again.",
    ),
    (
        "C2S-2011",
        "the form's meta block is text or a list",
        "Correct the meta block in the form's XML, or archive the form in HQ.",
    ),
    (
        "C2S-2012",
        "a case element of the form is text that contains case_id",
        "Correct the form's XML, or archive the form in HQ.",
    ),
    (
        "C2S-2013",
        "a case block has a namespace that HQ does not know",
        "HQ refuses such a form too. Correct the namespace in the form's XML, or archive the form.",
    ),
    (
        "C2S-2014",
        "a case block has no case id in the place its version requires",
        "HQ refuses such a form too. Correct the block in the form's XML, or archive the form.",
    ),
    (
        "C2S-2015",
        "a case block has an empty case id",
        "HQ refuses such a form too. Fill in the id in the form's XML, or archive the form.",
    ),
    (
        "C2S-2016",
        "the case id of a case block has content of its own or is repeated",
        "Correct the block in the form's XML, or archive the form.",
    ),
    (
        "C2S-2017",
        "a case id is longer than 255 characters",
        "No table of HQ can hold it. Correct the form's XML, or archive the form.",
    ),
    (
        "C2S-2018",
        "date_modified of a case block is no ISO 8601 date",
        "Correct the date in the form's XML and migrate the form again.",
    ),
    (
        "C2S-2019",
        "date_modified of a case block cannot be read as a point in time",
        "Correct the date in the form's XML and migrate the form again.",
    ),
    (
        "C2S-2020",
        "an attribute of a case block is not text",
        "The form's JSON in CouchDB was changed by hand. Restore the document.",
    ),
    (
        "C2S-2022",
        "an index of a case block has no case_type",
        "HQ refuses such a form too. Correct the form's XML, or archive the form.",
    ),
    (
        "C2S-2023",
        "an index of a case block has a relationship other than child and extension",
        "HQ refuses such a form too. Correct the form's XML, or archive the form.",
    ),
    (
        "C2S-2024",
        "a part of an index is longer than 255 characters",
        "No table of HQ can hold it. Correct the form's XML, or archive the form.",
    ),
    (
        "C2S-2026",
        "a case attachment is repeated under one name",
        "HQ refuses such a form too. Correct the form's XML, or archive the form.",
    ),
    (
        "C2S-2030",
        "the form's JSON holds what XML cannot express, so its lost XML cannot be rebuilt",
        "Restore form.xml from a back-up.",
    ),
    (
        "C2S-2031",
        "XML rebuilt from the form's JSON does not give the same JSON again",
        "Restore form.xml from a back-up.",
    ),
    (
        "C2S-2040",
        "the date of a ledger block is no date",
        "HQ refuses such a form too. Correct the date in the form's XML, or archive the form.",
    ),
    (
        "C2S-2041",
        "an entry of a ledger block has no id",
        "HQ refuses such a form too. Fill in the product in the form's XML, or archive the form.",
    ),
    (
        "C2S-2042",
        "a ledger block names no case, or an empty one",
        "HQ refuses such a form too. Fill in the case id in the form's XML, or archive the form.",
    ),
    (
        "C2S-2043",
        "a quantity of a ledger block is infinite or not a number",
        "No balance can hold it. Correct the quantity in the form's XML, or archive the form.",
    ),
    (
        "C2S-2044",
        "a value of a ledger block has no section",
        "No table of HQ can hold it. Fill in the section in the form's XML, or archive the form.",
    ),
    (
        "C2S-2045",
        "an id of a ledger block is longer than its column",
        "No table of HQ can hold it. Correct the form's XML, or archive the form.",
    ),
    (
        "C2S-2046",
        "a ledger block, entry or value has no attributes at all",
        "HQ refuses such a form too. Correct the form's XML, or archive the form.",
    ),
    (
        "C2S-2047",
        "a form holds more ledger instructions than any form may",
        "Check that the XML really is this form's. Report the limit if a genuine form exceeds it.",
    ),
];

#[cfg(test)]
mod tests {
    use proto::ids::CaseId;

    use super::*;
    use crate::error::{FormError, LedgerError, RoundtripError, XmlError};

    #[test]
    fn codes_are_unique_and_ascending() {
        assert!(CODES.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(CODES.iter().all(|(code, what, remedy)| code.len() == 8
            && code.starts_with("C2S-20")
            && !what.is_empty()
            && !remedy.is_empty()));
    }

    #[test]
    fn every_failure_has_its_entry() {
        let case_id = CaseId::from("c");
        let identifier = "parent".to_owned();
        let xml = [
            XmlError::Malformed {
                reason: "",
                position: 0,
            }
            .code(),
            XmlError::Encoding { reason: "" }.code(),
            XmlError::DocumentType { position: 0 }.code(),
            XmlError::TooLarge { what: "", maximum: 0 }.code(),
            XmlError::ProcessingInstruction { position: 0 }.code(),
            XmlError::PlainRoot.code(),
        ];
        let form = [
            FormError::DateOutOfRange,
            FormError::MetaNotObject,
            FormError::CaseIsText,
            FormError::UnknownCaseXmlns,
            FormError::MissingCaseId { version: "", place: "" },
            FormError::EmptyCaseId,
            FormError::CaseIdNotText,
            FormError::CaseIdTooLong,
            FormError::InvalidDateModified {
                case_id: case_id.clone(),
            },
            FormError::UnreadableDateModified {
                case_id: case_id.clone(),
            },
            FormError::NotText {
                case_id: case_id.clone(),
                what: "",
            },
            FormError::IndexWithoutType {
                case_id: case_id.clone(),
                identifier: identifier.clone(),
            },
            FormError::UnknownRelationship {
                case_id: case_id.clone(),
                identifier: identifier.clone(),
            },
            FormError::IndexTooLong {
                case_id: case_id.clone(),
                what: "",
            },
            FormError::AttachmentRepeated { case_id, identifier },
        ]
        .map(|error| error.code());
        let back = [RoundtripError::Value.code(), RoundtripError::Different.code()];
        let ledgers = [
            LedgerError::InvalidDate,
            LedgerError::MissingEntryId,
            LedgerError::MissingCaseId,
            LedgerError::NotFinite,
            LedgerError::MissingSection,
            LedgerError::TooLong { what: "", maximum: 0 },
            LedgerError::NotObject { what: "" },
            LedgerError::TooMany { maximum: 0 },
        ]
        .map(|error| error.code());
        let used: Vec<_> = xml.into_iter().chain(form).chain(back).chain(ledgers).collect();
        let listed: Vec<_> = CODES.iter().map(|entry| entry.0).collect();
        assert_eq!(used, listed);
    }
}
