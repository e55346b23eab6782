//! S3: the suite against a real gateway and against a server in this process that fails as told.

mod faults;
mod gateway;
mod server;

use repository::backend::s3::Tuning;
use repository::{S3Location, S3Options};
use secrecy::SecretString;
use std::time::Duration;

/// Options for tests: short pauses, and patience that ends soon.
fn options(endpoint: &str, bucket: &str) -> S3Options {
    let location = S3Location {
        endpoint: endpoint.to_owned(),
        region: "us-east-1".to_owned(),
        bucket: bucket.to_owned(),
        prefix: "machines/backups".to_owned(),
        access_key: "key".to_owned(),
        path_style: true,
        ca_pem: None,
        object_lock: None,
    };
    let mut options = S3Options::new(location, SecretString::from("secret"));
    options.tuning = Tuning {
        attempts: 6,
        pause: Duration::from_millis(2),
        pause_max: Duration::from_millis(20),
        ..Tuning::default()
    };
    options
}
