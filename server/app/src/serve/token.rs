//! The one-time setup token: who can read the server's terminal becomes the first administrator.

use crate::failure::Failure;
use db::Database;
use sha2::{Digest, Sha256};

const TOKEN_BYTES: usize = 16;

/// A new token while no account exists; the database keeps its hash only.
pub async fn issue(database: &Database) -> Result<Option<String>, Failure> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| Failure::because("No setup token could be made", error.to_string()))?;
    let token = readable(&bytes);
    let fresh = database
        .set_setup_token(Sha256::digest(token.as_bytes()).into())
        .await
        .map_err(|error| Failure::new("The setup token could not be kept", &error))?;
    Ok(fresh.then_some(token))
}

/// Hexadecimal in groups of four, to be copied by eye if need be.
fn readable(bytes: &[u8]) -> String {
    let digits = hex::encode(bytes);
    let groups: Vec<&str> = digits.as_bytes().chunks(4).filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join("-")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_token_is_grouped() {
        assert_eq!(super::readable(&[0x12, 0x34, 0xab, 0xcd]), "1234-abcd");
    }
}
