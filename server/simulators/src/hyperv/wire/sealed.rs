//! Sealed bodies: `multipart/encrypted` with one message in it. Source: [MS-WSMV] 2.2.9.1.1.
//!
//! Must never: take a message whose signature does not fit.

use crate::hyperv::ntlm::Session;

/// Content type of a sealed body; the client's may have its parts in another order.
pub(crate) const CONTENT_TYPE: &str =
    "multipart/encrypted;protocol=\"application/HTTP-SPNEGO-session-encrypted\";boundary=\"Encrypted Boundary\"";
const PROTOCOL: &str = "application/HTTP-SPNEGO-session-encrypted";
const BOUNDARY: &[u8] = b"--Encrypted Boundary";
/// Bytes of a signature.
const SIGNATURE_BYTES: usize = 16;
/// Bytes of the lines before the sealed data.
const PREAMBLE_BYTES_MAX: usize = 1024;

/// Whether a content type is that of a sealed body.
pub(crate) fn is_sealed(content_type: &str) -> bool {
    content_type.to_ascii_lowercase().starts_with("multipart/encrypted") && content_type.contains(PROTOCOL)
}

/// The message in a body.
pub(crate) fn open(session: &mut Session, body: &[u8]) -> Result<Vec<u8>, &'static str> {
    const TYPE: &[u8] = b"Content-Type: application/octet-stream\r\n";
    let start = find(&body[..body.len().min(PREAMBLE_BYTES_MAX)], TYPE).ok_or("no sealed part")? + TYPE.len();
    let (preamble, data) = body.split_at(start);
    let preamble = std::str::from_utf8(preamble).map_err(|_| "the lines before the sealed part are not text")?;
    let mut lines = preamble.lines().map(str::trim);
    let boundary = |line: Option<&str>| line.map(str::as_bytes) == Some(BOUNDARY);
    if !boundary(lines.next()) || lines.next() != Some(&format!("Content-Type: {PROTOCOL}")) {
        return Err("the first part does not name the protocol");
    }
    let original = lines.next().and_then(|line| line.strip_prefix("OriginalContent: type=application/soap+xml;"));
    let length = original.and_then(|line| line.strip_prefix("charset=UTF-8;Length="));
    let length: usize = length.and_then(|text| text.parse().ok()).ok_or("no length of the original content")?;
    if !boundary(lines.next()) {
        return Err("no boundary before the sealed part");
    }
    let end = data.len().checked_sub(BOUNDARY.len() + 4).ok_or("no end of the sealed part")?;
    let (data, tail) = data.split_at(end);
    if !tail.starts_with(BOUNDARY) || !tail.ends_with(b"--\r\n") {
        return Err("no boundary behind the sealed part");
    }
    let (size, rest) = data.split_first_chunk::<4>().ok_or("no size of the signature")?;
    if u32::from_le_bytes(*size) as usize != SIGNATURE_BYTES {
        return Err("the signature has not 16 bytes");
    }
    let (signature, message) = rest.split_at_checked(SIGNATURE_BYTES).ok_or("no signature")?;
    let mut message = message.to_vec();
    if !session.open(&mut message, signature) {
        return Err("the signature does not fit the message");
    }
    if message.len() != length {
        return Err("the length of the original content is wrong");
    }
    Ok(message)
}

/// Seals a message.
pub(crate) fn seal(session: &mut Session, mut message: Vec<u8>) -> Vec<u8> {
    let signature = session.seal(&mut message);
    let mut out = format!(
        "--Encrypted Boundary\r\n\tContent-Type: {PROTOCOL}\r\n\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length={}\r\n\
         --Encrypted Boundary\r\n\tContent-Type: application/octet-stream\r\n",
        message.len()
    )
    .into_bytes();
    out.extend((SIGNATURE_BYTES as u32).to_le_bytes());
    out.extend(signature);
    out.extend(message);
    out.extend(b"--Encrypted Boundary--\r\n");
    out
}

fn find(data: &[u8], wanted: &[u8]) -> Option<usize> {
    data.windows(wanted.len()).position(|window| window == wanted)
}
