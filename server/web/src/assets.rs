//! The static files, embedded in the binary, compressed once and served with their version in the address.
//! Must never: read a file by a path that a client sent; names are looked up in the embedded table only.

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use rust_embed::RustEmbed;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{LazyLock, OnceLock};

#[derive(RustEmbed)]
#[folder = "../../static"]
struct Files;

/// Quality of brotli for files that are compressed once per start: the last step (11) costs seconds and gains 10 %.
const BROTLI_QUALITY: u32 = 9;
const BROTLI_WINDOW_BITS: u32 = 22;
const BROTLI_BUFFER_BYTES: usize = 64 * 1024;

/// Licences and notes lie beside the files; they are not served.
const OTHER: &str = "application/octet-stream";

struct Asset {
    plain: Bytes,
    content_type: &'static str,
    brotli: OnceLock<Bytes>,
    gzip: OnceLock<Bytes>,
}

struct Table {
    base: String,
    files: HashMap<String, Asset>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut names: Vec<String> = Files::iter().map(|name| name.to_string()).collect();
    names.sort();
    let mut version = Sha256::new();
    let mut files = HashMap::new();
    for name in names {
        if content_type(&name) == OTHER {
            continue;
        }
        let Some(file) = Files::get(&name) else { continue };
        version.update(name.as_bytes());
        version.update(file.data.as_ref());
        let asset = Asset {
            plain: Bytes::from(file.data.into_owned()),
            content_type: content_type(&name),
            brotli: OnceLock::new(),
            gzip: OnceLock::new(),
        };
        files.insert(name, asset);
    }
    let digest = hex::encode(version.finalize());
    Table { base: format!("/static/{}", digest.get(..12).unwrap_or(&digest)), files }
});

/// `/static/<version>`, without a slash at the end.
pub fn base() -> &'static str {
    &TABLE.base
}

/// Compresses everything that a first visit loads, so that no visitor waits for it.
pub fn warm_up() {
    for asset in TABLE.files.values() {
        asset.brotli();
        asset.gzip();
    }
}

/// `GET /static/{version}/{*name}`.
pub async fn serve(Path((version, name)): Path<(String, String)>, headers: HeaderMap) -> Response {
    let Some(asset) = TABLE.files.get(&name) else { return StatusCode::NOT_FOUND.into_response() };
    let current = TABLE.base.ends_with(&version);
    let cache = if current { "public, max-age=31536000, immutable" } else { "no-cache" };
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (body, encoding) = asset.encoded(accepted);
    let mut response = body.into_response();
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(asset.content_type));
    out.insert(header::CACHE_CONTROL, header::HeaderValue::from_static(cache));
    out.insert(header::VARY, header::HeaderValue::from_static("accept-encoding"));
    if let Some(encoding) = encoding {
        out.insert(header::CONTENT_ENCODING, header::HeaderValue::from_static(encoding));
    }
    response
}

impl Asset {
    fn encoded(&self, accepted: &str) -> (Bytes, Option<&'static str>) {
        let accepts = |name: &str| accepted.split(',').any(|part| part.split(';').next().map(str::trim) == Some(name));
        if accepts("br") {
            (self.brotli(), Some("br"))
        } else if accepts("gzip") {
            (self.gzip(), Some("gzip"))
        } else {
            (self.plain.clone(), None)
        }
    }

    fn brotli(&self) -> Bytes {
        let pack = || {
            let mut packed = Vec::new();
            let mut writer =
                brotli::CompressorWriter::new(&mut packed, BROTLI_BUFFER_BYTES, BROTLI_QUALITY, BROTLI_WINDOW_BITS);
            // Writing to a Vec cannot fail.
            let _ = writer.write_all(&self.plain);
            drop(writer);
            Bytes::from(packed)
        };
        self.brotli.get_or_init(pack).clone()
    }

    fn gzip(&self) -> Bytes {
        let pack = || {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            let _ = writer.write_all(&self.plain);
            Bytes::from(writer.finish().unwrap_or_default())
        };
        self.gzip.get_or_init(pack).clone()
    }
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_first_visit_loads_fits_the_budget() {
        let total: usize = ["app.css", "sprite.svg", "favicon.svg", "vendor/tabler.min.css", "vendor/htmx.min.js"]
            .iter()
            .chain(&["vendor/hx-sse.min.js"])
            .map(|name| TABLE.files[*name].gzip().len())
            .sum();
        // The page itself takes 10 KB at most of the 150.
        assert!(total < 140_000, "{total} bytes with gzip");
    }

    #[test]
    fn packed_files_are_smaller_and_unpack_to_the_same() {
        let asset = &TABLE.files["app.css"];
        let mut unpacked = Vec::new();
        brotli::BrotliDecompress(&mut asset.brotli().as_ref(), &mut unpacked).unwrap();
        assert_eq!(unpacked, asset.plain);
        assert!(asset.brotli().len() < asset.plain.len() / 3);
    }
}
