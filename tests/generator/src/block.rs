//! What a form does to one case, and how the form says so.

use serde_json::{Value, json};

use crate::element::{Element, Text};
use crate::moment::Moment;

/// Namespace of case blocks of version 2.
pub(crate) const V2_NAMESPACE: &str = "http://commcarehq.org/case/transaction/v2";

/// Syntax of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// One case block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) case_id: String,
    pub(crate) version: Version,
    /// The block's own user; V1 blocks cannot have one.
    pub(crate) user_id: Option<String>,
    pub(crate) modified: Moment,
    pub(crate) create: Option<Create>,
    pub(crate) update: Update,
    pub(crate) close: bool,
    pub(crate) indices: Vec<Index>,
    pub(crate) photo: Option<Photo>,
}

/// `create`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Create {
    pub(crate) case_type: String,
    pub(crate) name: Option<String>,
    pub(crate) owner_id: Option<String>,
    pub(crate) external_id: Option<String>,
    pub(crate) date_opened: Option<Moment>,
}

/// `update`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Update {
    pub(crate) case_type: Option<String>,
    pub(crate) case_name: Option<String>,
    pub(crate) owner_id: Option<String>,
    pub(crate) external_id: Option<String>,
    /// Everything without a known name, `name` and `location_id` among it.
    pub(crate) dynamic: Vec<(String, Property)>,
}

impl Update {
    fn is_empty(&self) -> bool {
        self.case_type.is_none()
            && self.case_name.is_none()
            && self.owner_id.is_none()
            && self.external_id.is_none()
            && self.dynamic.is_empty()
    }
}

/// A property's value.
#[derive(Clone, Debug)]
pub(crate) enum Property {
    Text(Text),
    /// An element with an attribute: becomes an object.
    Coded {
        code: String,
        text: String,
    },
    /// The element occurs several times: the last one counts.
    Repeated(Vec<String>),
}

impl Property {
    /// What ends up in the case.
    pub(crate) fn value(&self) -> Value {
        match self {
            Self::Text(text) => Value::String(text.json()),
            Self::Coded { code, text } => json!({"@code": code, "#text": text}),
            Self::Repeated(values) => Value::String(values.last().cloned().unwrap_or_default()),
        }
    }

    fn elements(&self, name: &str) -> Vec<Element> {
        match self {
            Self::Text(text) => vec![Element::leaf(name, text.clone())],
            Self::Coded { code, text } => vec![Element::leaf(name, text.as_str()).attribute("code", code.as_str())],
            Self::Repeated(values) => values.iter().map(|value| Element::leaf(name, value.as_str())).collect(),
        }
    }
}

/// One entry of `index`; an empty id removes it.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    pub(crate) identifier: &'static str,
    pub(crate) referenced_type: &'static str,
    pub(crate) referenced_id: String,
    pub(crate) extension: bool,
}

/// A case attachment, taken from an attachment of the form.
#[derive(Clone, Debug)]
pub(crate) struct Photo {
    pub(crate) identifier: &'static str,
    pub(crate) src: String,
}

impl Block {
    /// A block that only names its case.
    pub(crate) fn naming(case_id: &str, user_id: Option<&str>, modified: Moment) -> Self {
        Self {
            case_id: case_id.to_owned(),
            version: Version::V2,
            user_id: user_id.map(str::to_owned),
            modified,
            create: None,
            update: Update::default(),
            close: false,
            indices: Vec::new(),
            photo: None,
        }
    }

    pub(crate) fn has_update(&self) -> bool {
        !self.update.is_empty()
    }

    /// Whether the block does nothing but name its case.
    pub(crate) fn is_noop(&self) -> bool {
        self.create.is_none() && !self.has_update() && !self.close && self.indices.is_empty() && self.photo.is_none()
    }

    /// Rank among the blocks of one case in one form: creating ones first, closing ones after updating ones.
    pub(crate) fn rank(&self) -> u8 {
        if self.create.is_some() {
            0
        } else if self.has_update() || self.is_noop() {
            1
        } else if !self.indices.is_empty() {
            2
        } else if self.close {
            3
        } else {
            4
        }
    }

    /// Type bits of the case transaction.
    pub(crate) fn bits(&self) -> i16 {
        let mut bits = 0;
        for (present, bit) in [
            (self.create.is_some(), 128),
            (self.close, 256),
            (!self.indices.is_empty(), 512),
            (self.photo.is_some(), 1024),
        ] {
            if present {
                bits |= bit;
            }
        }
        bits
    }

    pub(crate) fn element(&self) -> Element {
        let mut case = Element::new("case");
        let type_key = match self.version {
            Version::V1 => {
                case = case
                    .child(Element::leaf("case_id", self.case_id.as_str()))
                    .child(Element::leaf("date_modified", self.modified));
                "case_type_id"
            }
            Version::V2 => {
                case = case
                    .namespace(V2_NAMESPACE, None)
                    .attribute("case_id", self.case_id.as_str())
                    .attribute("date_modified", self.modified);
                if let Some(user_id) = &self.user_id {
                    case = case.attribute("user_id", user_id.as_str());
                }
                "case_type"
            }
        };
        if let Some(create) = &self.create {
            let mut element = Element::new("create").child(Element::leaf(type_key, create.case_type.as_str()));
            for (key, value) in [
                ("case_name", &create.name),
                ("owner_id", &create.owner_id),
                ("external_id", &create.external_id),
            ] {
                element = element.children(value.as_deref().map(|value| Element::leaf(key, value)));
            }
            case = case.child(element.children(create.date_opened.map(|moment| Element::leaf("date_opened", moment))));
        }
        if self.has_update() {
            let mut element = Element::new("update");
            for (key, value) in [
                (type_key, &self.update.case_type),
                ("case_name", &self.update.case_name),
                ("owner_id", &self.update.owner_id),
                ("external_id", &self.update.external_id),
            ] {
                element = element.children(value.as_deref().map(|value| Element::leaf(key, value)));
            }
            for (key, property) in &self.update.dynamic {
                element = element.children(property.elements(key));
            }
            case = case.child(element);
        }
        if self.close {
            case = case.child(Element::new("close"));
        }
        if !self.indices.is_empty() {
            case = case.child(Element::new("index").children(self.indices.iter().map(|index| {
                let mut element = Element::leaf(index.identifier, index.referenced_id.as_str())
                    .attribute("case_type", index.referenced_type);
                if index.extension {
                    element = element.attribute("relationship", "extension");
                }
                element
            })));
        }
        if let Some(photo) = &self.photo {
            let entry = Element::new(photo.identifier)
                .attribute("src", photo.src.as_str())
                .attribute("from", "local");
            case = case.child(Element::new("attachment").child(entry));
        }
        case
    }
}
