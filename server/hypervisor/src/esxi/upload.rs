//! One disk on its way to the host: bytes of the disk in, a streamOptimized stream out over HTTPS.
//!
//! Grains are compressed by several threads and put back in order; everything between is bounded.

use super::transport::{Address, Timeouts, read_body, status_error};
use crate::{ErrorKind, HostError, Result};
use bytes::Bytes;
use disk::DiskError;
use disk::container::vmdk::{GrainSplitter, StreamAssembler, encode_grain};
use futures_util::stream;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Body, Client};
use std::collections::VecDeque;
use std::io;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use url::Url;

const STREAM_TYPE: &str = "application/x-vnd.vmware-streamVmdk";
/// Grains that go to a thread together: 1 MiB of the disk.
const BATCH_GRAINS: usize = 16;
/// Batches in work at once.
const MAX_BATCHES: usize = 4;
/// Pieces of the stream that wait for the network.
const SEND_AHEAD_PIECES: usize = 8;

type Batch = Vec<(u64, Vec<u8>)>;
/// Grains of a batch as they go into the stream; `None` for zeros.
type Encoded = Vec<(u64, Option<Vec<u8>>)>;

pub(super) struct DiskUpload {
    address: Address,
    attempt: String,
    splitter: GrainSplitter,
    assembler: StreamAssembler,
    batch: Batch,
    in_work: VecDeque<JoinHandle<Encoded>>,
    sender: mpsc::Sender<io::Result<Bytes>>,
    timeouts: Timeouts,
    request: Option<JoinHandle<Result<()>>>,
}

impl DiskUpload {
    /// Begins the request. `size` is the disk's capacity in bytes.
    pub(super) fn start(
        http: &Client,
        address: Address,
        timeouts: Timeouts,
        url: Url,
        size: u64,
        attempt: String,
    ) -> Result<Self> {
        let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(SEND_AHEAD_PIECES);
        let (assembler, head) = StreamAssembler::new(size).map_err(|error| broken(&address, &attempt, error))?;
        let pieces = stream::unfold((receiver, Some(head)), |(mut receiver, head)| async move {
            match head {
                Some(head) => Some((Ok(Bytes::from(head)), (receiver, None))),
                None => receiver.recv().await.map(|piece| (piece, (receiver, None))),
            }
        });
        let post =
            http.post(url).header(CONTENT_TYPE, STREAM_TYPE).header("Overwrite", "t").body(Body::wrap_stream(pieces));
        let (to, what) = (address.clone(), attempt.clone());
        let request = tokio::spawn(async move {
            let answer = post.send().await.map_err(|error| to.transport_error(&what, error))?;
            let status = answer.status();
            if status.is_success() {
                return Ok(());
            }
            let said = read_body(&to, &what, answer).await.unwrap_or_default();
            let said: String = said.chars().filter(|c| !c.is_control()).take(200).collect();
            let error = status_error(&to, &what, status);
            Err(if said.is_empty() {
                error
            } else {
                HostError { reason: format!("{}: {said}", error.reason), ..error }
            })
        });
        Ok(Self {
            address,
            attempt,
            timeouts,
            splitter: GrainSplitter::new(size),
            assembler,
            batch: Vec::with_capacity(BATCH_GRAINS),
            in_work: VecDeque::new(),
            sender,
            request: Some(request),
        })
    }

    /// Takes bytes of the disk; offsets ascend. Waits while the host is slower than we are.
    pub(super) async fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let batch = &mut self.batch;
        let split = self.splitter.write(offset, data, |index, grain| batch.push((index, grain)));
        split.map_err(|error| broken(&self.address, &self.attempt, error))?;
        if self.batch.len() >= BATCH_GRAINS {
            self.compress();
        }
        while self.in_work.len() >= MAX_BATCHES {
            self.send_oldest().await?;
        }
        Ok(())
    }

    /// Ends the stream, and waits until the host has taken all of it.
    pub(super) async fn finish(mut self) -> Result<()> {
        let splitter = std::mem::replace(&mut self.splitter, GrainSplitter::new(0));
        let batch = &mut self.batch;
        splitter.finish(|index, grain| batch.push((index, grain)));
        self.compress();
        while !self.in_work.is_empty() {
            self.send_oldest().await?;
        }
        let mut tail = Vec::new();
        let (assembler, _) = StreamAssembler::new(0).map_err(|error| broken(&self.address, &self.attempt, error))?;
        let assembler = std::mem::replace(&mut self.assembler, assembler);
        assembler.finish(&mut tail).map_err(|error| broken(&self.address, &self.attempt, error))?;
        self.send(tail).await?;
        // The end of the channel is the end of the body.
        self.sender = mpsc::channel(1).0;
        self.outcome().await
    }

    fn compress(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH_GRAINS));
        self.in_work.push_back(tokio::task::spawn_blocking(move || {
            batch.into_iter().map(|(index, grain)| (index, encode_grain(index, &grain))).collect()
        }));
    }

    async fn send_oldest(&mut self) -> Result<()> {
        let Some(work) = self.in_work.pop_front() else { return Ok(()) };
        let encoded = work.await.map_err(|error| {
            let error = DiskError::Misuse { format: "streamOptimized VMDK", reason: error.to_string() };
            broken(&self.address, &self.attempt, error)
        })?;
        let mut out = Vec::new();
        for (index, grain) in encoded {
            if let Some(grain) = grain {
                let pushed = self.assembler.push(index, &grain, &mut out);
                pushed.map_err(|error| broken(&self.address, &self.attempt, error))?;
            }
        }
        self.send(out).await
    }

    async fn send(&mut self, piece: Vec<u8>) -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        match timeout(self.timeouts.stall, self.sender.send(Ok(piece.into()))).await {
            Ok(Ok(())) => return Ok(()),
            Err(_) => return Err(self.error(ErrorKind::Timeout, "host.timeout", "the host takes no more bytes")),
            // The request has ended before the stream has: it knows why.
            Ok(Err(_)) => {}
        }
        self.outcome().await?;
        Err(self.error(ErrorKind::Protocol, "esxi.upload_ended", "the host stopped taking the disk"))
    }

    async fn outcome(&mut self) -> Result<()> {
        let Some(request) = &mut self.request else {
            return Err(self.error(ErrorKind::Interrupted, "esxi.upload_ended", "the request ended"));
        };
        match timeout(self.timeouts.store, request).await {
            Ok(Ok(outcome)) => {
                self.request = None;
                outcome
            }
            Ok(Err(_)) => Err(self.error(ErrorKind::Interrupted, "esxi.upload_ended", "the request ended")),
            Err(_) => Err(self.error(ErrorKind::Timeout, "host.timeout", "the host did not confirm the disk in time")),
        }
    }

    fn error(&self, kind: ErrorKind, code: &'static str, reason: &str) -> HostError {
        self.address.error(kind, code, &self.attempt, reason)
    }
}

impl Drop for DiskUpload {
    /// A stream that was not finished must not look like one that was: the connection is cut.
    fn drop(&mut self) {
        if let Some(request) = self.request.take() {
            request.abort();
        }
    }
}

fn broken(address: &Address, attempt: &str, error: DiskError) -> HostError {
    HostError {
        source: Some(error.into()),
        ..address.error(ErrorKind::Refused, "esxi.stream", attempt, "the disk's stream could not be made")
    }
}
