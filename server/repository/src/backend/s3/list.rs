//! Lists: pages of a plain bucket, or of all versions where a bucket keeps them. Whole or an error, never short.

use reqwest::Method;
use std::collections::BTreeMap;

use super::client::{Call, Client, Trouble};
use super::xml::{Document, Entry};
use crate::backend::ObjectInfo;

/// Pages of one list: 100 million objects.
const LIST_PAGES_MAX: usize = 100_000;
/// Entries asked for at once; the most there is.
const PAGE_ENTRIES: &str = "1000";

/// A version of a key, or the mark that it was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub key: String,
    pub id: String,
    pub size: u64,
    pub is_mark: bool,
}

impl Client {
    /// Keys with their sizes that begin with `prefix`, each once, in no order to rely on.
    pub async fn list_keys(&self, prefix: &str) -> Result<Vec<ObjectInfo>, Trouble> {
        let (mut found, mut token) = (Vec::new(), String::new());
        for _ in 0..LIST_PAGES_MAX {
            let mut call = Call::new(Method::GET, None)
                .query("list-type", "2")
                .query("encoding-type", "url")
                .query("max-keys", PAGE_ENTRIES)
                .query("prefix", prefix);
            if !token.is_empty() {
                call = call.query("continuation-token", &token);
            }
            let page = self.page(&call, "ListBucketResult").await?;
            for entry in page.entries.iter().filter(|entry| entry.name == "Contents") {
                found.push(ObjectInfo { name: unescape(entry.field("Key"))?, size: size(entry)? });
            }
            if !is_truncated(&page)? {
                return Ok(found);
            }
            let next = page.text("NextContinuationToken");
            if next.is_empty() || next == token {
                return Err(nonsense("a page of the list does not say where the next begins"));
            }
            next.clone_into(&mut token);
        }
        Err(nonsense("the list does not end"))
    }

    /// All versions and marks of keys that begin with `prefix`, newest first for each key.
    pub async fn list_versions(&self, prefix: &str) -> Result<BTreeMap<String, Vec<Version>>, Trouble> {
        let mut found: BTreeMap<String, Vec<Version>> = BTreeMap::new();
        let (mut key_marker, mut version_marker) = (String::new(), String::new());
        for _ in 0..LIST_PAGES_MAX {
            let mut call = Call::new(Method::GET, None)
                .query("versions", "")
                .query("encoding-type", "url")
                .query("max-keys", PAGE_ENTRIES)
                .query("prefix", prefix);
            if !key_marker.is_empty() {
                call = call.query("key-marker", &key_marker);
            }
            if !version_marker.is_empty() {
                call = call.query("version-id-marker", &version_marker);
            }
            let page = self.page(&call, "ListVersionsResult").await?;
            for entry in &page.entries {
                let is_mark = entry.name == "DeleteMarker";
                if is_mark || entry.name == "Version" {
                    let (key, id) = (unescape(entry.field("Key"))?, entry.field("VersionId").to_owned());
                    let size = if is_mark { 0 } else { size(entry)? };
                    found.entry(key.clone()).or_default().push(Version { key, id, size, is_mark });
                }
            }
            if !is_truncated(&page)? {
                return Ok(found);
            }
            let next = (unescape(page.text("NextKeyMarker"))?, page.text("NextVersionIdMarker").to_owned());
            if next.0.is_empty() || next == (key_marker, version_marker) {
                return Err(nonsense("a page of the list does not say where the next begins"));
            }
            (key_marker, version_marker) = next;
        }
        Err(nonsense("the list does not end"))
    }

    /// All versions and marks of one key, newest first.
    pub async fn versions_of(&self, key: &str) -> Result<Vec<Version>, Trouble> {
        Ok(self.list_versions(key).await?.remove(key).unwrap_or_default())
    }

    async fn page(&self, call: &Call<'_>, root: &str) -> Result<Document, Trouble> {
        let mut patience = self.patience();
        loop {
            let reply = self.send_patiently(call).await?;
            match Document::parse(&reply.body) {
                Ok(page) if page.root == root => return Ok(page),
                // Some servers begin to answer before they fail.
                Err(_) if patience.pause().await => {}
                Err(reason) => return Err(Trouble::Nonsense(format!("a page of the list is unreadable: {reason}"))),
                Ok(_) => return Err(nonsense("the answer is not a list")),
            }
        }
    }
}

fn nonsense(words: &str) -> Trouble {
    Trouble::Nonsense(words.to_owned())
}

fn is_truncated(page: &Document) -> Result<bool, Trouble> {
    match page.text("IsTruncated") {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(nonsense("a page of the list does not say whether it is the last")),
    }
}

fn size(entry: &Entry) -> Result<u64, Trouble> {
    entry.field("Size").parse().map_err(|_| nonsense("an object in the list has no size"))
}

fn unescape(text: &str) -> Result<String, Trouble> {
    // In this encoding a blank may be a plus sign.
    let text = text.replace('+', " ");
    let bytes = percent_encoding::percent_decode_str(&text).decode_utf8();
    bytes.map(std::borrow::Cow::into_owned).map_err(|_| nonsense("a name in the list is not UTF-8"))
}
