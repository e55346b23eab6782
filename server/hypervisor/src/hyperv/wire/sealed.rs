//! A message within `multipart/encrypted` (MS-WSMV 2.2.9.1), as WinRM carries it over plain HTTP.

use crate::hyperv::ntlm::{NtlmError, SIGNATURE_BYTES, Session};

/// Media type of the whole, as it is sent.
pub(super) const CONTENT_TYPE: &str = concat!(
    "multipart/encrypted;protocol=\"application/HTTP-SPNEGO-session-encrypted\";",
    "boundary=\"Encrypted Boundary\""
);
const MEDIA_TYPE: &str = "multipart/encrypted";
const PROTOCOL: &str = "application/HTTP-SPNEGO-session-encrypted";
const BOUNDARY: &str = "Encrypted Boundary";
/// Media type of what is within.
pub(super) const SOAP_TYPE: &str = "application/soap+xml;charset=UTF-8";
/// Longest line of the part's headers.
const MAX_LINE_BYTES: usize = 1024;
/// Lines before the sealed bytes.
const MAX_LINES: usize = 16;

/// Why a sealed answer was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SealedError {
    #[error("it is not sealed, and nothing that is not sealed can be trusted on this connection")]
    NotSealed,
    #[error("its multipart form is not the one of WinRM")]
    Form,
    #[error("it cannot be opened")]
    Ntlm(#[source] NtlmError),
}

/// Seals `clear` as the body of a request.
pub(super) fn wrap(session: &mut Session, clear: &[u8]) -> Vec<u8> {
    let (signature, sealed) = session.seal(clear);
    let mut body = format!(
        "--{BOUNDARY}\r\n\tContent-Type: {PROTOCOL}\r\n\tOriginalContent: type={SOAP_TYPE};Length={}\r\n\
         --{BOUNDARY}\r\n\tContent-Type: application/octet-stream\r\n",
        clear.len()
    )
    .into_bytes();
    body.extend_from_slice(&(SIGNATURE_BYTES as u32).to_le_bytes());
    body.extend_from_slice(&signature);
    body.extend_from_slice(&sealed);
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

/// Opens the body of an answer. Its form is read by position, as sealed bytes may hold anything.
pub(super) fn unwrap(session: &mut Session, content_type: &str, body: &[u8]) -> Result<Vec<u8>, SealedError> {
    let boundary = boundary(content_type)?;
    let mut lines = Lines { rest: body };
    let mut length: Option<usize> = None;
    let mut boundaries = 0;
    for _ in 0..MAX_LINES {
        let line = lines.next().ok_or(SealedError::Form)?;
        if is_boundary(line, &boundary) {
            boundaries += 1;
            continue;
        }
        let Some((name, value)) = line.split_once(':') else { return Err(SealedError::Form) };
        match (name.trim().to_ascii_lowercase().as_str(), boundaries) {
            ("originalcontent", 1) => {
                let text = value.rsplit_once("Length=").map(|(_, length)| length.trim());
                length = text.and_then(|length| length.parse().ok());
            }
            ("content-type", 2) if value.trim().eq_ignore_ascii_case("application/octet-stream") => {
                return open(session, lines.rest, length.ok_or(SealedError::Form)?, &boundary);
            }
            ("content-type", 1) => {}
            _ => return Err(SealedError::Form),
        }
    }
    Err(SealedError::Form)
}

fn open(session: &mut Session, sealed: &[u8], length: usize, boundary: &str) -> Result<Vec<u8>, SealedError> {
    let (announced, rest) = sealed.split_first_chunk::<4>().ok_or(SealedError::Form)?;
    if u32::from_le_bytes(*announced) as usize != SIGNATURE_BYTES {
        return Err(SealedError::Form);
    }
    let (signature, rest) = rest.split_first_chunk::<SIGNATURE_BYTES>().ok_or(SealedError::Form)?;
    let (sealed, end) = rest.split_at_checked(length).ok_or(SealedError::Form)?;
    let end = std::str::from_utf8(end).map_err(|_| SealedError::Form)?.trim();
    if !end.strip_suffix("--").is_some_and(|end| is_boundary(end, boundary)) {
        return Err(SealedError::Form);
    }
    session.open(signature, sealed).map_err(SealedError::Ntlm)
}

fn boundary(content_type: &str) -> Result<String, SealedError> {
    let mut parts = content_type.split(';').map(str::trim);
    if !parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(MEDIA_TYPE)) {
        return Err(SealedError::NotSealed);
    }
    let (mut boundary, mut is_spnego) = (None, false);
    for part in parts {
        let Some((name, value)) = part.split_once('=') else { continue };
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "boundary" => boundary = Some(value.to_owned()),
            "protocol" => is_spnego = value.eq_ignore_ascii_case(PROTOCOL),
            _ => {}
        }
    }
    boundary.filter(|boundary| is_spnego && !boundary.is_empty()).ok_or(SealedError::Form)
}

/// `--boundary`; some services write a space after the dashes.
fn is_boundary(line: &str, boundary: &str) -> bool {
    line.strip_prefix("--").is_some_and(|rest| rest.trim() == boundary)
}

struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let window = self.rest.get(..self.rest.len().min(MAX_LINE_BYTES))?;
        let end = window.windows(2).position(|pair| pair == b"\r\n")?;
        let (line, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest.get(2..)?;
        std::str::from_utf8(line).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Session, Session) {
        (Session::of_key(&[3; 16]), Session::mirrored(&[3; 16]))
    }

    #[test]
    fn a_message_is_wrapped_and_opened() {
        let (mut client, mut host) = pair();
        for clear in [&b"<a/>"[..], b"", b"--Encrypted Boundary--\r\n"] {
            let body = wrap(&mut host, clear);
            assert!(body.starts_with(b"--Encrypted Boundary\r\n\tContent-Type: application/HTTP-SPNEGO"));
            assert_eq!(unwrap(&mut client, CONTENT_TYPE, &body).unwrap(), clear);
        }
    }

    #[test]
    fn other_spellings_of_the_form_are_read() {
        let (mut client, mut host) = pair();
        let body = wrap(&mut host, b"<a/>");
        let body: Vec<u8> = String::from_utf8_lossy(&body[..20]).replace("--E", "-- E").into_bytes();
        assert!(body.starts_with(b"-- Encrypted"));
        let mut whole = body;
        let (mut client_2, mut host_2) = pair();
        whole.extend_from_slice(&wrap(&mut host_2, b"<a/>")[20..]);
        assert_eq!(unwrap(&mut client_2, CONTENT_TYPE, &whole).unwrap(), b"<a/>");
        let other = CONTENT_TYPE.replace("boundary=\"Encrypted Boundary\"", "boundary=X");
        assert_eq!(unwrap(&mut client, &other, b"--X\r\n\tContent-Type: a\r\n"), Err(SealedError::Form));
    }

    #[test]
    fn what_is_not_sealed_or_was_changed_is_refused() {
        let (mut client, _) = pair();
        assert_eq!(unwrap(&mut client, SOAP_TYPE, b"<a/>"), Err(SealedError::NotSealed));
        assert_eq!(unwrap(&mut client, "", b""), Err(SealedError::NotSealed));
        let length = wrap(&mut pair().1, b"<answer/>").len();
        for at in 0..length {
            let (mut client, mut host) = pair();
            let mut body = wrap(&mut host, b"<answer/>");
            body[at] ^= 0x04;
            let opened = unwrap(&mut client, CONTENT_TYPE, &body);
            // Words around the sealed bytes are not signed; what they frame is.
            assert!(opened.is_err() || opened.unwrap() == b"<answer/>", "byte {at}");
            let (mut client, mut host) = pair();
            let body = wrap(&mut host, b"<answer/>");
            // The last line may lack its end.
            assert!(at + 2 >= length || unwrap(&mut client, CONTENT_TYPE, &body[..at]).is_err(), "cut at {at}");
        }
    }
}
