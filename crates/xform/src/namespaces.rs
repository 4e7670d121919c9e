//! Namespace declarations in scope while an XML document is read.

use std::rc::Rc;

use crate::limits::MAX_BINDINGS;
use crate::markup::Problem;

/// Namespace that the prefix `xml` always stands for.
pub(crate) const XML_NAMESPACE: &str = "http://www.w3.org/XML/1998/namespace";
const XMLNS_NAMESPACE: &str = "http://www.w3.org/2000/xmlns/";

/// The declarations of the open elements, innermost last.
pub(crate) struct Namespaces {
    bindings: Vec<Binding>,
}

struct Binding {
    /// Empty for the default namespace.
    prefix: Box<str>,
    /// `None` where `xmlns=""` takes the default namespace away.
    uri: Option<Rc<str>>,
}

impl Default for Namespaces {
    /// Only `xml` needs no declaration.
    fn default() -> Self {
        let xml = Binding {
            prefix: "xml".into(),
            uri: Some(XML_NAMESPACE.into()),
        };
        Self { bindings: vec![xml] }
    }
}

impl Namespaces {
    /// Where the declarations of the element that starts now will begin; handed to [`Self::leave`] when it ends.
    pub(crate) fn enter(&self) -> usize {
        self.bindings.len()
    }

    /// Forgets the declarations made since [`Self::enter`].
    pub(crate) fn leave(&mut self, mark: usize) {
        self.bindings.truncate(mark);
    }

    /// Declares a prefix (empty: the default namespace) on the element entered at `mark`.
    pub(crate) fn declare(&mut self, mark: usize, prefix: &str, uri: &str) -> Result<(), Problem> {
        match (prefix, uri) {
            ("xmlns", _) => return Err(Problem::Text("the prefix xmlns is declared")),
            (_, XMLNS_NAMESPACE) => return Err(Problem::Text("the namespace of xmlns is declared")),
            ("xml", XML_NAMESPACE) => return Ok(()),
            ("xml", _) | (_, XML_NAMESPACE) => return Err(Problem::Text("the prefix xml is redefined")),
            ("", _) => {}
            (_, "") => return Err(Problem::Text("a prefix is declared as empty")),
            _ => {}
        }
        if self.bindings[mark..].iter().any(|binding| &*binding.prefix == prefix) {
            return Err(Problem::Text("a namespace is declared twice on one element"));
        }
        if self.bindings.len() >= MAX_BINDINGS {
            return Err(Problem::Limit("namespace declarations in scope", MAX_BINDINGS));
        }
        self.bindings.push(Binding {
            prefix: prefix.into(),
            uri: (!uri.is_empty()).then(|| uri.into()),
        });
        Ok(())
    }

    /// The namespace of an element with this prefix; `None` when it has none.
    pub(crate) fn of_element(&self, prefix: &str) -> Result<Option<&Rc<str>>, Problem> {
        // Prefixes are a few bytes, mostly none: comparing them here is faster than calling memcmp.
        let is_same =
            |binding: &&Binding| binding.prefix.len() == prefix.len() && binding.prefix.bytes().eq(prefix.bytes());
        match self.bindings.iter().rev().find(is_same) {
            Some(binding) => Ok(binding.uri.as_ref()),
            None if prefix.is_empty() => Ok(None),
            None => Err(Problem::Text("a namespace prefix is not declared")),
        }
    }

    /// The namespace of an attribute with this prefix, which is not empty.
    pub(crate) fn of_attribute(&self, prefix: &str) -> Result<&str, Problem> {
        match self.of_element(prefix)? {
            Some(uri) => Ok(uri),
            None => Err(Problem::Text("a namespace prefix is not declared")),
        }
    }
}
