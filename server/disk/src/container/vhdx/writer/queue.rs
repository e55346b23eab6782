//! Writes on their way to the target: small neighbours are gathered into one, and several are under way at once.

use crate::container::source::ImageTarget;
use crate::container::vhdx::layout::FORMAT;
use crate::{DiskError, Result};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use std::io;
use std::sync::Arc;

/// Bytes of the largest single write.
const WRITE_BYTES_MAX: usize = 1 << 20;
const IN_FLIGHT_MAX: usize = 64;

pub(super) struct WriteQueue {
    target: Arc<dyn ImageTarget>,
    in_flight: FuturesUnordered<BoxFuture<'static, io::Result<()>>>,
    in_flight_max: usize,
    /// What may still grow, and its offset in the file.
    gathered: BytesMut,
    gathered_at: u64,
}

impl WriteQueue {
    pub fn new(target: Arc<dyn ImageTarget>, in_flight: usize) -> Self {
        Self {
            target,
            in_flight: FuturesUnordered::new(),
            in_flight_max: in_flight.clamp(1, IN_FLIGHT_MAX),
            gathered: BytesMut::new(),
            gathered_at: 0,
        }
    }

    /// Adds a write of at most [`WRITE_BYTES_MAX`]; waits while too many are under way.
    pub async fn push(&mut self, at: u64, data: Bytes) -> Result<()> {
        let follows = at == self.gathered_at + self.gathered.len() as u64;
        if !follows || self.gathered.len() + data.len() > WRITE_BYTES_MAX {
            self.send_gathered().await?;
        }
        if self.gathered.is_empty() {
            self.gathered_at = at;
            self.gathered.reserve(WRITE_BYTES_MAX);
        }
        self.gathered.extend_from_slice(&data);
        if self.gathered.len() >= WRITE_BYTES_MAX {
            self.send_gathered().await?;
        }
        Ok(())
    }

    /// Adds a write of any length.
    pub async fn push_all(&mut self, at: u64, mut data: Bytes) -> Result<()> {
        let mut at = at;
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(WRITE_BYTES_MAX));
            let length = piece.len() as u64;
            self.push(at, piece).await?;
            at += length;
        }
        Ok(())
    }

    /// Waits until everything was taken by the target.
    pub async fn settle(&mut self) -> Result<()> {
        self.send_gathered().await?;
        while let Some(written) = self.in_flight.next().await {
            written.map_err(failed)?;
        }
        Ok(())
    }

    pub async fn set_len(&mut self, length_bytes: u64) -> Result<()> {
        self.target.set_len(length_bytes).await.map_err(failed)
    }

    pub async fn flush(&mut self) -> Result<()> {
        self.target.flush().await.map_err(failed)
    }

    async fn send_gathered(&mut self) -> Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        while self.in_flight.len() >= self.in_flight_max {
            if let Some(written) = self.in_flight.next().await {
                written.map_err(failed)?;
            }
        }
        let (target, at, data) = (self.target.clone(), self.gathered_at, self.gathered.split().freeze());
        self.in_flight.push(async move { target.write_at(at, data).await }.boxed());
        // Polled once, so that it is on its way while the caller fetches the next bytes.
        while let Some(Some(written)) = self.in_flight.next().now_or_never() {
            written.map_err(failed)?;
        }
        Ok(())
    }
}

fn failed(source: io::Error) -> DiskError {
    DiskError::Write { format: FORMAT, source }
}
