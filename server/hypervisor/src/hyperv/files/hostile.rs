//! A host that holds the session's keys and does not keep to the protocol, byte by byte.

use super::failure::{Cure, Failure};
use super::seal::{CipherKeys, SigningKey, TRANSFORM_BYTES, put};
use super::wire::{HEADER_BYTES, PAYLOAD_BYTES_MAX, Reply, Request, SignedIn, Wire};
use crate::ErrorKind;
use smb2::crypto::encryption::Cipher;
use smb2::crypto::signing::SigningAlgorithm;
use smb2::types::Command;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const SESSION: u64 = 77;
const PATIENCE: Duration = Duration::from_secs(1);

fn signing() -> SigningKey {
    SigningKey::new(SigningAlgorithm::AesGmac, &[1; 16]).unwrap_or_else(|failure| panic!("{failure}"))
}

fn cipher() -> CipherKeys {
    CipherKeys::new(Cipher::Aes128Gcm, &[2; 16], &[2; 16], SESSION).unwrap_or_else(|failure| panic!("{failure}"))
}

/// A connection with `credits`, and the host's end of it.
async fn line(credits: u32, encrypts: bool) -> (Wire, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (theirs, _) = listener.accept().await.unwrap();
    let (reader, writer) = ours.into_split();
    let (signing, cipher) = (signing(), Some(cipher()));
    let signed_in = SignedIn { reader, writer, session_id: SESSION, signing, cipher, encrypts, next_id: 5, credits };
    (Wire::start(signed_in, PATIENCE), theirs)
}

/// The next request's message id, command and credit charge; a sealed one is opened first.
async fn next(host: &mut TcpStream) -> (u64, u16, u16) {
    let length = host.read_u32().await.unwrap() as usize;
    let mut message = vec![0; length];
    host.read_exact(&mut message).await.unwrap();
    if message[0] == 0xFD {
        cipher().open(&mut message).unwrap_or_else(|failure| panic!("{failure}"));
        message.drain(..TRANSFORM_BYTES);
    }
    let short = |at: usize| u16::from_le_bytes([message[at], message[at + 1]]);
    (u64::from_le_bytes(message[24..32].try_into().unwrap()), short(12), short(6))
}

/// An answer that is as it should be, unsigned: of a READ that brought `data`.
fn answer(id: u64, command: u16, credits: u16, data: &[u8]) -> Vec<u8> {
    let mut message = vec![0; HEADER_BYTES + 16];
    put(&mut message, 0, &[0xFE, b'S', b'M', b'B', 64, 0]);
    put(&mut message, 12, &command.to_le_bytes());
    put(&mut message, 14, &credits.to_le_bytes());
    put(&mut message, 16, &[0x09]); // an answer, signed
    put(&mut message, 24, &id.to_le_bytes());
    put(&mut message, 40, &SESSION.to_le_bytes());
    put(&mut message, HEADER_BYTES, &[17, 0, (HEADER_BYTES + 16) as u8]);
    put(&mut message, HEADER_BYTES + 4, &(data.len() as u32).to_le_bytes());
    message.extend_from_slice(data);
    message
}

fn signed(mut message: Vec<u8>) -> Vec<u8> {
    let tag = signing().tag(&message, true).unwrap();
    put(&mut message, 48, &tag);
    message
}

async fn send(host: &mut TcpStream, message: &[u8]) {
    host.write_u32(message.len() as u32).await.unwrap();
    host.write_all(message).await.unwrap();
}

async fn ask(wire: &Wire, answer_bytes: u32) -> Result<Reply, Failure> {
    wire.call(&Request { command: Command::Read, tree: 1, body: &[0; 49], payload: &[], answer_bytes }).await
}

/// What comes of a request that is answered with what `make` makes of a good answer.
async fn outcome(encrypts: bool, make: impl Fn(Vec<u8>) -> Vec<u8>) -> Result<Vec<u8>, Failure> {
    let (wire, mut host) = line(8, encrypts).await;
    let served = async {
        let (id, command, _) = next(&mut host).await;
        send(&mut host, &make(answer(id, command, 1, b"data"))).await;
        host
    };
    let (reply, _host) = tokio::join!(ask(&wire, 4), served);
    assert_eq!(reply.is_err(), wire.is_dead());
    reply.map(|reply| reply.part(HEADER_BYTES + 16, 4).unwrap_or_default().to_vec())
}

fn sealed(message: &[u8]) -> Vec<u8> {
    let mut framed = [vec![0; TRANSFORM_BYTES], message.to_vec()].concat();
    cipher().seal(&mut framed).unwrap_or_else(|failure| panic!("{failure}"));
    framed
}

#[tokio::test]
async fn good_answers_count() {
    assert_eq!(outcome(false, signed).await.unwrap_or_default(), b"data");
    assert_eq!(outcome(true, |message| sealed(&message)).await.unwrap_or_default(), b"data");
}

#[tokio::test]
async fn answers_that_are_not_sealed_as_agreed_end_the_connection() {
    type Make = fn(Vec<u8>) -> Vec<u8>;
    let bad: [(bool, Make); 8] = [
        (false, |message| message),                        // unsigned
        (false, |message| signed(message)[..70].to_vec()), // cut
        (false, |mut message| {
            message[16] = 8;
            signed(message)
        }), // a request
        (false, |mut message| {
            message[12] = 9;
            signed(message)
        }), // to another request
        (false, |mut message| {
            message[20] = 80;
            signed(message)
        }), // several
        (false, |_| vec![0xFE; 10]),
        (true, signed), // clear, though sealed ones are due
        (true, |message| {
            let mut framed = sealed(&message);
            framed[60] ^= 1;
            framed
        }),
    ];
    for (index, (encrypts, make)) in bad.into_iter().enumerate() {
        let failure = outcome(encrypts, make).await.expect_err("a bad answer");
        assert_eq!((failure.kind, failure.cure), (ErrorKind::Protocol, Cure::Reconnect), "{index}: {failure}");
    }
}

#[tokio::test]
async fn a_message_that_is_too_long_is_not_waited_for() {
    let (wire, mut host) = line(8, false).await;
    let served = async {
        next(&mut host).await;
        host.write_u32(PAYLOAD_BYTES_MAX * 2).await.unwrap();
        host
    };
    let (reply, _host) = tokio::join!(ask(&wire, 4), served);
    assert!(reply.is_err_and(|failure| failure.to_string().contains("16777216 bytes")));
}

#[tokio::test]
async fn requests_keep_to_the_credits_and_numbers_to_what_they_cost() {
    let (wire, mut host) = line(2, false).await;
    assert_eq!(wire.payload_bytes(), 128 << 10);
    let served = async {
        let (first, command, charge) = next(&mut host).await;
        assert_eq!((first, charge), (5, 2));
        // Credits come with an interim answer, which needs no signature, and the rest with the final one.
        let mut interim = answer(first, command, 3, b"");
        put(&mut interim, 8, &0x103u32.to_le_bytes());
        put(&mut interim, 16, &[0x03]);
        send(&mut host, &interim).await;
        let (second, command, charge) = next(&mut host).await;
        assert_eq!((second, charge), (7, 3));
        send(&mut host, &signed(answer(second, command, 0, b"more"))).await;
        send(&mut host, &signed(answer(first, command, 1, b"data"))).await;
        host
    };
    let (one, two, _host) = tokio::join!(ask(&wire, 128 << 10), ask(&wire, 192 << 10), served);
    assert!(one.is_ok() && two.is_ok());
    assert_eq!(wire.payload_bytes(), 64 << 10);
}

#[tokio::test]
async fn a_host_without_credits_or_words_is_not_waited_for_for_ever() {
    let (wire, mut host) = line(1, false).await;
    let served = async {
        let (id, command, _) = next(&mut host).await;
        send(&mut host, &signed(answer(id, command, 0, b"data"))).await;
        host
    };
    let (reply, _host) = tokio::join!(ask(&wire, 4), served);
    assert!(reply.is_ok());
    let failure = ask(&wire, 4).await.expect_err("no credits are left");
    assert_eq!((failure.kind, failure.cure), (ErrorKind::Timeout, Cure::Silent));
    assert!(wire.is_dead());
    assert!(ask(&wire, 4).await.is_err());
}

#[tokio::test]
async fn answers_that_nobody_waits_for_are_passed_over() {
    let (wire, mut host) = line(8, false).await;
    let served = async {
        let (id, command, _) = next(&mut host).await;
        send(&mut host, &answer(u64::MAX, 18, 0, b"")).await; // a break of a lock, never signed
        send(&mut host, &signed(answer(id + 1000, command, 1, b"else"))).await;
        send(&mut host, &signed(answer(id, command, 1, b"data"))).await;
        host
    };
    let (reply, _host) = tokio::join!(ask(&wire, 4), served);
    assert_eq!(reply.map(|reply| reply.part(80, 4)).ok().flatten().as_deref(), Some(&b"data"[..]));
}
