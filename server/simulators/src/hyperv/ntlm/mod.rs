//! The accepting end of NTLM, version 2, with extended session security, and the sessions it makes.
//!
//! Owns: the exchange of one connection. Must never: accept version 1, LM responses, 40-bit or 56-bit keys, an anonymous user.
//! Source: [MS-NLMP]; channel bindings: RFC 5929, RFC 2744 3.11.

mod crypto;
mod message;
pub(crate) mod spnego;

use crypto::{Direction, From, Rc4, hmac_md5, md5, ntowf_v2, utf16};
use message::{Authenticate, PAIR_FLAG_MIC, flag, pair};

/// Seconds from 1601 to 1970.
const EPOCH_DIFFERENCE_S: i64 = 11_644_473_600;
/// Bytes of a token.
pub(crate) const TOKEN_BYTES_MAX: usize = 8 << 10;

/// Who may come in, and what this end says of itself.
pub(crate) struct Acceptor<'a> {
    pub account: &'a str,
    pub password: &'a str,
    pub computer: &'a str,
    /// SHA-256 of the certificate, on TLS: bindings to another channel are refused.
    pub certificate_sha256: Option<[u8; 32]>,
}

/// An exchange that waits for its third message.
pub(crate) struct Challenged {
    challenge: [u8; 8],
    negotiate: Vec<u8>,
    own: Vec<u8>,
}

/// What both ends agreed on.
pub(crate) struct Session {
    from_client: Direction,
    from_server: Direction,
    /// Messages can be sealed.
    pub seals: bool,
}

impl Session {
    /// Checks the client's signature of SPNEGO's list of mechanisms and signs it, too.
    pub fn sign_mechanisms(&mut self, list: &[u8], mic: &[u8]) -> Option<[u8; 16]> {
        let fits = self.from_client.sign_and_reset(list) == mic;
        fits.then(|| self.from_server.sign_and_reset(list))
    }

    /// Opens a message from the client in place; false when it is not authentic.
    pub fn open(&mut self, message: &mut [u8], signature: &[u8]) -> bool {
        self.from_client.open(message, signature)
    }

    /// Seals a message to the client in place; answers its signature.
    pub fn seal(&mut self, message: &mut [u8]) -> [u8; 16] {
        self.from_server.seal(message)
    }
}

impl Acceptor<'_> {
    /// Answers the first message. `challenge` are eight random bytes; `seconds` the time since 1970.
    pub fn challenge(
        &self,
        negotiate: &[u8],
        challenge: [u8; 8],
        seconds: i64,
    ) -> Result<(Challenged, Vec<u8>), &'static str> {
        const WANTED: u32 = flag::UNICODE | flag::EXTENDED_SECURITY | flag::KEYS_128 | flag::NTLM;
        const ECHOED: u32 =
            flag::SIGN | flag::SEAL | flag::ALWAYS_SIGN | flag::KEY_EXCHANGE | flag::KEYS_56 | flag::REQUEST_TARGET;
        let offered = message::negotiate_flags(negotiate).ok_or("not a NEGOTIATE message")?;
        if offered & WANTED != WANTED {
            return Err("the client does not offer Unicode, NTLMv2 session security and 128-bit keys");
        }
        let flags = WANTED | offered & ECHOED | flag::TARGET_IS_SERVER | flag::TARGET_INFO | flag::VERSION;
        let computer = utf16(&self.computer.to_uppercase());
        let dns = utf16(&self.computer.to_lowercase());
        let mut info = Vec::new();
        message::push_pair(&mut info, pair::DOMAIN, &computer);
        message::push_pair(&mut info, pair::COMPUTER, &computer);
        message::push_pair(&mut info, pair::DNS_DOMAIN, &dns);
        message::push_pair(&mut info, pair::DNS_COMPUTER, &dns);
        let filetime = (seconds + EPOCH_DIFFERENCE_S) * 10_000_000;
        message::push_pair(&mut info, pair::TIMESTAMP, &filetime.to_le_bytes());
        message::push_pair(&mut info, pair::END, &[]);
        let own = message::challenge(flags, challenge, &computer, &info);
        Ok((Challenged { challenge, negotiate: negotiate.to_vec(), own: own.clone() }, own))
    }

    /// Checks the third message.
    pub fn authenticate(&self, begun: &Challenged, token: &[u8]) -> Result<Session, &'static str> {
        let message = Authenticate::parse(token).ok_or("not an AUTHENTICATE message")?;
        let (proof, blob) = message.nt_response.split_at_checked(16).ok_or("no NTLMv2 response")?;
        // A blob is a fixed part of 28 bytes, then pairs; an NTLMv1 response is 24 bytes in all.
        let pairs = blob.get(28..).filter(|_| blob.starts_with(&[1, 1])).ok_or("not an NTLMv2 response")?;
        let domain = message.domain.as_str();
        let local = ["", ".", "WORKGROUP", self.computer].iter().any(|own| own.eq_ignore_ascii_case(domain));
        if !local || !message.user.eq_ignore_ascii_case(self.account) {
            return Err("no such account");
        }
        let key = ntowf_v2(self.password, &message.user, domain);
        if hmac_md5(&key, &[&begun.challenge, blob]) != proof {
            return Err("wrong password");
        }
        self.check_channel(pairs)?;
        let session_key = session_key(&message, &hmac_md5(&key, &[proof]))?;
        let flags = message::find_pair(pairs, pair::FLAGS).ok_or("damaged target information")?;
        let flags = flags.and_then(|value| value.try_into().ok()).map_or(0, u32::from_le_bytes);
        if flags & PAIR_FLAG_MIC != 0 {
            let (mic, without) = message.mic.as_ref().ok_or("the MIC is missing")?;
            if hmac_md5(&session_key, &[&begun.negotiate, &begun.own, without]) != *mic {
                return Err("the MIC is wrong");
            }
        }
        Ok(Session {
            from_client: Direction::new(&session_key, From::Client),
            from_server: Direction::new(&session_key, From::Server),
            seals: message.flags & flag::SEAL != 0 && message.flags & flag::KEY_EXCHANGE != 0,
        })
    }

    /// A client may bind its answer to the channel; if it does, it must be this one.
    fn check_channel(&self, pairs: &[u8]) -> Result<(), &'static str> {
        let bound = message::find_pair(pairs, pair::CHANNEL_BINDINGS).ok_or("damaged target information")?;
        let (Some(bound), Some(sha256)) = (bound, self.certificate_sha256) else { return Ok(()) };
        let mut token = b"tls-server-end-point:".to_vec();
        token.extend(sha256);
        let length = (token.len() as u32).to_le_bytes();
        let own = md5(&[&[0; 16], &length, &token]);
        if bound == own || bound == [0; 16] { Ok(()) } else { Err("bound to another channel") }
    }
}

fn session_key(message: &Authenticate, base: &[u8; 16]) -> Result<[u8; 16], &'static str> {
    if message.flags & flag::EXTENDED_SECURITY == 0 || message.flags & flag::KEYS_128 == 0 {
        return Err("the client gave up session security");
    }
    if message.flags & flag::KEY_EXCHANGE == 0 || message.flags & (flag::SIGN | flag::SEAL) == 0 {
        return Ok(*base);
    }
    let mut key: [u8; 16] = message.session_key.as_slice().try_into().map_err(|_| "no session key")?;
    Rc4::new(base).apply(&mut key);
    Ok(key)
}
