//! Sealed values: they open in their own row, under their own key, and nowhere else.

use super::fixture;
use crate::testing::database;
use crate::{CredentialKey, Database, Error};
use secrecy::ExposeSecret;
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn a_password_comes_back_and_is_not_in_the_table() {
    let db = database().await;
    let device_id = fixture::device(&db, "one").await;
    assert_eq!(db.device_password(device_id).await.unwrap().expose_secret(), "password of one");
    let sealed: Vec<u8> = sqlx::query_scalar("select password_sealed from device").fetch_one(&db.pool).await.unwrap();
    assert!(!sealed.windows(8).any(|window| window == b"password"));
}

#[tokio::test]
async fn a_sealed_value_in_another_row_or_altered_does_not_open() {
    let db = database().await;
    let (one, two) = (fixture::device(&db, "one").await, fixture::device(&db, "two").await);
    db.execute("update device set password_sealed = (select password_sealed from device where name = 'one')").await;
    assert!(db.device_password(one).await.is_ok());
    assert!(matches!(db.device_password(two).await, Err(Error::Sealed { table: "device", .. })));
    db.execute("update device set password_sealed = set_byte(password_sealed, 14, get_byte(password_sealed, 14) # 1)")
        .await;
    assert!(matches!(db.device_password(one).await, Err(Error::Sealed { .. })));
    db.execute("update device set password_sealed = '\\x01'").await;
    assert!(matches!(db.device_password(one).await, Err(Error::Sealed { .. })));
}

#[tokio::test]
async fn another_key_is_refused_before_anything_is_opened() {
    let db = database().await;
    let other = Database { pool: db.pool.clone(), key: CredentialKey::random() };
    assert!(matches!(other.check_key().await, Err(Error::WrongKey)));
    db.check_key().await.unwrap();
}

#[test]
fn the_key_file_is_made_once_for_the_server_alone_and_damage_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let first = CredentialKey::load_or_create(folder.path()).unwrap();
    let again = CredentialKey::load_or_create(folder.path()).unwrap();
    assert_eq!(first.fingerprint(), again.fingerprint());
    let path = folder.path().join("secrets/credential.key");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(folder.path().join("secrets")).unwrap().permissions().mode() & 0o777, 0o700);
    std::fs::write(&path, [0; 31]).unwrap();
    assert!(matches!(CredentialKey::load_or_create(folder.path()), Err(Error::KeyFile { .. })));
    assert_eq!(format!("{first:?}"), "CredentialKey");
}
