//! The CIM side: classes, values, paths, instances, queries. Knows nothing of machines or of the wire.

pub(crate) mod embedded;
pub(crate) mod instance;
pub(crate) mod path;
pub(crate) mod schema;
pub(crate) mod value;
pub(crate) mod wql;
