//! SPNEGO around NTLM, as far as a client needs it that offers NTLM first. Sources: RFC 4178, [MS-SPNG].

/// `1.3.6.1.5.5.2` and `1.3.6.1.4.1.311.2.2.10`, as DER has them.
const SPNEGO: &[u8] = &[0x06, 0x06, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x02];
const NTLM: &[u8] = &[0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x02, 0x0a];
const SEQUENCE: u8 = 0x30;
const OCTETS: u8 = 0x04;
/// States of a negotiation.
const ACCEPT_COMPLETED: u8 = 0;
const ACCEPT_INCOMPLETE: u8 = 1;

/// The first token: the list of mechanisms as DER, which is signed at the end, and NTLM's first message.
pub(crate) fn open_init(token: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (whole, _) = take(token, 0x60)?;
    let inner = whole.strip_prefix(SPNEGO)?;
    let (init, _) = take(inner, 0xa0)?;
    let (fields, _) = take(init, SEQUENCE)?;
    let mechanisms = field(fields, 0)?;
    let (list, _) = take(mechanisms, SEQUENCE)?;
    if !list.starts_with(NTLM) {
        return None;
    }
    let (message, _) = take(field(fields, 2)?, OCTETS)?;
    Some((mechanisms.to_vec(), message.to_vec()))
}

/// A later token: NTLM's message and the signature of the list, if there is one.
pub(crate) fn open_response(token: &[u8]) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let (response, _) = take(token, 0xa1)?;
    let (fields, _) = take(response, SEQUENCE)?;
    let (message, _) = take(field(fields, 2)?, OCTETS)?;
    let mic = match field(fields, 3) {
        Some(mic) => Some(take(mic, OCTETS)?.0.to_vec()),
        None => None,
    };
    Some((message.to_vec(), mic))
}

/// The answer to the first token.
pub(crate) fn challenge(message: &[u8]) -> Vec<u8> {
    let state = put(0xa0, &put(0x0a, &[ACCEPT_INCOMPLETE]));
    let message = put(0xa2, &put(OCTETS, message));
    put(0xa1, &put(SEQUENCE, &[state, put(0xa1, NTLM), message].concat()))
}

/// The last answer, with this end's signature of the list.
pub(crate) fn accepted(mic: Option<[u8; 16]>) -> Vec<u8> {
    let state = put(0xa0, &put(0x0a, &[ACCEPT_COMPLETED]));
    let mic = mic.map_or(Vec::new(), |mic| put(0xa3, &put(OCTETS, &mic)));
    put(0xa1, &put(SEQUENCE, &[state, mic].concat()))
}

/// The content of the element at the front, which has to have that tag, and what is behind it.
fn take(data: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = data.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => (usize::from(u16::from_be_bytes(rest.get(..2)?.try_into().ok()?)), rest.get(2..)?),
        _ => return None,
    };
    if *found == tag { rest.split_at_checked(length) } else { None }
}

/// The content of the field with that number.
fn field(mut fields: &[u8], number: u8) -> Option<&[u8]> {
    while let Some(&tag) = fields.first() {
        let (content, rest) = take(fields, tag)?;
        if tag == 0xa0 + number {
            return Some(content);
        }
        fields = rest;
    }
    None
}

fn put(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..=0x7f => out.push(length as u8),
        0x80..=0xff => out.extend([0x81, length as u8]),
        _ => {
            out.push(0x82);
            out.extend((length as u16).to_be_bytes());
        }
    }
    out.extend(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_opened_and_damaged_ones_are_not() {
        for size in [5, 150, 400] {
            let message = vec![7; size];
            let list = put(SEQUENCE, NTLM);
            let fields = [put(0xa0, &list), put(0xa2, &put(OCTETS, &message))].concat();
            let init = put(0x60, &[SPNEGO, &put(0xa0, &put(SEQUENCE, &fields))].concat());
            assert_eq!(open_init(&init), Some((list, message.clone())));
            for length in 0..init.len() {
                assert_eq!(open_init(&init[..length]), None, "{length}");
            }
            assert_eq!(open_response(&challenge(&message)), Some((message, None)));
        }
        assert_eq!(open_response(&accepted(None)), None, "no message");
    }
}
