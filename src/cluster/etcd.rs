//! What the cluster asks of etcd, and what it is told: plain data, as etcd 3.4 has it.
//!
//! Whoever carries these out adds nothing: each request is one call of etcd's API. An answer that does not come in time
//! is given as [`EtcdFailure::Unanswered`], or left out; the asker has a deadline of its own.

/// One request: carried out at once, beside others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EtcdRequest {
    /// A lease of this many seconds; etcd draws its number.
    LeaseGrant {
        /// Time to live.
        ttl_secs: i64,
    },
    /// Keeps a lease alive.
    LeaseKeepAlive {
        /// Its number.
        lease: i64,
    },
    /// Ends a lease, and the keys under it.
    LeaseRevoke {
        /// Its number.
        lease: i64,
    },
    /// Everything whose key begins with `prefix`, at one revision, linearizable.
    Range {
        /// What the keys begin with.
        prefix: String,
    },
    /// If all compares hold, all puts, at one revision.
    Transaction {
        /// What has to hold.
        compares: Vec<Compare>,
        /// What is put then.
        puts: Vec<Put>,
    },
    /// Events of everything under `prefix`, from this revision on, until the connection breaks.
    Watch {
        /// What the keys begin with.
        prefix: String,
        /// The first revision of interest.
        from_revision: i64,
    },
    /// Forgets the revisions before this one.
    Compact {
        /// The oldest revision to keep.
        revision: i64,
    },
}

/// A condition of a transaction. A key that does not exist has revision 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key was created at this revision.
    CreateRevision {
        /// The key.
        key: String,
        /// The revision.
        revision: i64,
    },
    /// The key was last put at this revision.
    ModRevision {
        /// The key.
        key: String,
        /// The revision.
        revision: i64,
    },
}

/// A put of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// The lease under which it lives; 0 for none.
    pub lease: i64,
}

/// A key that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// When it was created.
    pub create_revision: i64,
    /// When it was last put.
    pub mod_revision: i64,
    /// The lease under which it lives; 0 for none.
    pub lease: i64,
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EtcdResponse {
    /// To [`EtcdRequest::LeaseGrant`].
    LeaseGranted {
        /// Its number.
        lease: i64,
        /// The time to live that etcd gave it.
        ttl_secs: i64,
    },
    /// To [`EtcdRequest::LeaseKeepAlive`]; no time to live is left when the lease is gone.
    LeaseKept {
        /// Time to live.
        ttl_secs: i64,
    },
    /// To [`EtcdRequest::LeaseRevoke`].
    LeaseRevoked,
    /// To [`EtcdRequest::Range`].
    Range {
        /// The revision of the store at which this was read.
        revision: i64,
        /// What there is.
        entries: Vec<Entry>,
    },
    /// To [`EtcdRequest::Transaction`].
    Transaction {
        /// Whether the compares held.
        succeeded: bool,
        /// The revision of the store behind it: the watch has told of it once it has come so far.
        revision: i64,
    },
    /// To [`EtcdRequest::Compact`].
    Compacted,
    /// To any of them.
    Failed(EtcdFailure),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EtcdFailure {
    /// It may have been carried out, or may yet be.
    Unanswered,
    /// etcd refused it and says why.
    Refused(String),
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// A key was put.
    Put(Entry),
    /// A key was deleted, by a lease's end or otherwise.
    Delete {
        /// The key.
        key: String,
        /// When.
        revision: i64,
    },
    /// The watch has ended: the connection broke, or the revisions it needs are compacted.
    Closed,
}
