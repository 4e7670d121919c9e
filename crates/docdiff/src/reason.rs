//! Why a difference is expected, and cannot be removed.

/// The reason of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeReason {
    /// The Couch case is not what its own forms make of it.
    RebuildCase,
    /// All forms of the Couch case are deleted.
    DeletedForms,
    /// None of the Couch case's forms names the case.
    OrphanedCase,
    /// The form that changed the ledger is in Couch, but HQ made no stock transaction of it.
    MissingCouchStockTransaction,
    /// HQ applied a form to the ledger more often than the form says.
    DuplicateStockTransaction,
}

impl ChangeReason {
    /// All reasons.
    pub const ALL: [Self; 5] = [
        Self::RebuildCase,
        Self::DeletedForms,
        Self::OrphanedCase,
        Self::MissingCouchStockTransaction,
        Self::DuplicateStockTransaction,
    ];

    /// Its words in stored changes.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RebuildCase => "rebuild case",
            Self::DeletedForms => "deleted forms",
            Self::OrphanedCase => "orphaned case",
            Self::MissingCouchStockTransaction => "missing couch stock transaction",
            Self::DuplicateStockTransaction => "duplicate stock transaction",
        }
    }
}
