//! The five verbs over a share. Owns the order of a write (temporary file, durable, name), what is tried again, and
//! finding out what became of a write whose answer was lost. Never says `AlreadyExists` for a write of its own.

use bytes::Bytes;
use futures_util::stream::{self, FuturesUnordered};
use futures_util::{StreamExt, TryStreamExt};
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Cure, EntryKind, Failure, OBJECT_BYTES_MAX, Settled, Share, TEMPORARY_FOLDER, gather, pieces, write_whole,
};
use crate::backend::{BackendError, BackendErrorKind, ObjectInfo, valid_name};

/// Verbs at work at the same time; others wait.
const VERBS_AT_ONCE: usize = 32;
/// Pieces of one transfer in flight.
const PIECES_AT_ONCE: usize = 8;
/// Pieces of all transfers in flight, which bounds memory.
const PIECES_AT_ONCE_IN_ALL: usize = 16;
/// Folders listed at the same time.
const FOLDERS_AT_ONCE: usize = 8;
/// Objects in one list.
const LIST_OBJECTS_MAX: usize = 20_000_000;
/// Waits before a verb is tried again.
const RETRY_WAITS: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1)];
/// Temporary files whose last write is longer ago have lost their writer.
const SWEEP_GRACE_SECONDS: u64 = 24 * 60 * 60;
/// Temporary files removed at one go.
const SWEEP_FILES_MAX: usize = 1000;

/// Objects as files of a share.
#[derive(Debug)]
pub(in crate::backend) struct ShareBackend<S: Share> {
    options: S::Options,
    place: String,
    current: Mutex<Current<S>>,
    connections: AtomicU64,
    verbs: Semaphore,
    pieces: Semaphore,
    /// Sets this handle's temporary files apart from all others'.
    token: Uuid,
    temporaries: AtomicU64,
    swept: AtomicBool,
    /// Temporary files that lost connections left behind.
    orphans: parking_lot::Mutex<Vec<String>>,
}

#[derive(Debug)]
struct Current<S> {
    /// The connection, and its number.
    session: Option<(u64, S)>,
    /// When the last attempt to connect ended, and why it failed.
    failed: Option<(Instant, Failure)>,
}

fn other(text: &str) -> Failure {
    Failure::new(BackendErrorKind::Other, text)
}

async fn permit(semaphore: &Semaphore) -> Result<SemaphorePermit<'_>, Failure> {
    semaphore.acquire().await.map_err(|_| other("the location is closed"))
}

impl<S: Share> ShareBackend<S> {
    /// A location that is connected to when it is used.
    pub fn new(options: S::Options, place: String) -> Self {
        Self {
            options,
            place,
            current: Mutex::new(Current { session: None, failed: None }),
            connections: AtomicU64::new(0),
            verbs: Semaphore::new(VERBS_AT_ONCE),
            pieces: Semaphore::new(PIECES_AT_ONCE_IN_ALL),
            token: Uuid::new_v4(),
            temporaries: AtomicU64::new(0),
            swept: AtomicBool::new(false),
            orphans: parking_lot::Mutex::default(),
        }
    }

    pub fn place(&self) -> &str {
        &self.place
    }

    pub fn error(&self, verb: &'static str, name: &str, failure: Failure) -> BackendError {
        let kind = failure.kind;
        let source = Arc::new(std::io::Error::other(failure));
        BackendError { kind, verb, name: name.to_owned(), place: self.place.clone(), source: Some(source) }
    }

    /// The connection, made when there is none. Who waited while another tried in vain gets the same answer: a queue
    /// before a dead server does not wait once for each.
    pub async fn session(&self) -> Result<(u64, S), Failure> {
        let asked_at = Instant::now();
        let mut current = self.current.lock().await;
        if let Some((number, session)) = &current.session
            && !session.is_dead()
        {
            return Ok((*number, session.clone()));
        }
        if let Some((failed_at, failure)) = &current.failed
            && *failed_at > asked_at
        {
            return Err(failure.clone());
        }
        current.session = None;
        match S::connect(&self.options).await {
            Ok(session) => {
                let number = self.connections.fetch_add(1, Ordering::Relaxed);
                *current = Current { session: Some((number, session.clone())), failed: None };
                Ok((number, session))
            }
            Err(failure) => {
                current.failed = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    async fn forget(&self, number: u64) {
        let mut current = self.current.lock().await;
        if current.session.as_ref().is_some_and(|(of_current, _)| *of_current == number) {
            current.session = None;
        }
    }

    /// Runs what may be run again, on as many connections as it takes within limits.
    async fn retry<T, F>(&self, attempt: impl Fn(S) -> F + Send) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>> + Send,
    {
        let mut waits = RETRY_WAITS.into_iter();
        let mut had_session = false;
        loop {
            let failure = match self.session().await {
                Ok((number, session)) => {
                    had_session = true;
                    let failure = match attempt(session.clone()).await {
                        Ok(value) => return Ok(value),
                        Err(failure) if failure.is_not_found() => whose_absence(&session, failure).await,
                        Err(failure) => failure,
                    };
                    if failure.is_ambiguous() {
                        self.forget(number).await;
                    }
                    failure
                }
                Err(failure) if !had_session => return Err(failure),
                Err(failure) => failure,
            };
            if matches!(failure.cure, Cure::None | Cure::Silent) {
                return Err(failure);
            }
            let Some(wait) = waits.next() else { return Err(failure) };
            tokio::time::sleep(wait).await;
        }
    }

    /// Makes the location's folder, or finds it empty.
    pub async fn create_root(&self) -> Result<(), BackendError> {
        let created = self.retry(|session| async move {
            session.make_root().await?;
            if session.list_folder("").await?.iter().any(|entry| entry.name != "lost+found") {
                return Err(Failure::new(BackendErrorKind::AlreadyExists, "the folder is not empty"));
            }
            Ok(())
        });
        created.await.map_err(|failure| self.error("create", "", failure))
    }

    /// Finds the location's folder.
    pub async fn open_root(&self) -> Result<(), BackendError> {
        let found = self.retry(|session| async move { session.find_root().await });
        found.await.map_err(|failure| self.error("open", "", failure))
    }

    pub async fn put_new(&self, name: &str, parts: &[Bytes]) -> Result<(), BackendError> {
        let put = async {
            check_name(name)?;
            let _verb = permit(&self.verbs).await?;
            self.retry(|session| async move { self.put_once(&session, name, parts).await }).await
        };
        put.await.map_err(|failure| self.error("store", name, failure))
    }

    async fn put_once(&self, session: &S, name: &str, parts: &[Bytes]) -> Result<(), Failure> {
        match session.look_up(name).await {
            Ok(_) => return Err(Failure::new(BackendErrorKind::AlreadyExists, "the name is taken")),
            Err(failure) if failure.is_not_found() => {}
            Err(failure) => return Err(failure),
        }
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        let temporary = format!("{TEMPORARY_FOLDER}/{}-{number}.part", self.token.simple());
        let (file, now) = match session.create(&temporary).await {
            Err(failure) if failure.is_not_found() => {
                // Never makes the location's own folder: one that vanished must not come back empty.
                session.make_folder(TEMPORARY_FOLDER).await?;
                session.create(&temporary).await?
            }
            other => other?,
        };
        let cleaner = Cleaner(Some((session.clone(), temporary.clone())));
        if !self.swept.swap(true, Ordering::Relaxed) {
            sweep(session, now).await;
        }
        self.remove_orphans(session).await;
        let written = self.write_all(session, &file, parts).await;
        let published = match written {
            Ok(()) => publish(session, &file, &temporary, name).await,
            Err(failure) => Err((failure, false)),
        };
        match published {
            Ok(()) => {
                // The object stands: what fails from here on leaves a temporary file at worst.
                let _ = session.close(file).await;
                if S::KEEPS_TEMPORARY {
                    let _ = session.remove(&temporary).await;
                }
                cleaner.disarm();
                Ok(())
            }
            Err((failure, true)) if failure.is_ambiguous() => {
                cleaner.disarm();
                self.settle(&file, &temporary, name, failure).await
            }
            Err((failure, _)) => {
                if failure.is_ambiguous() {
                    self.orphans.lock().push(temporary);
                } else {
                    // Nothing else can be done about a file that does not go away; the first failure is the one to tell.
                    let _ = session.close(file).await;
                    let _ = session.remove(&temporary).await;
                }
                cleaner.disarm();
                Err(failure)
            }
        }
    }

    /// What still cannot be removed stays on the list; what the list cannot hold is swept another day.
    async fn remove_orphans(&self, session: &S) {
        let (mut orphans, mut kept) = (std::mem::take(&mut *self.orphans.lock()), Vec::new());
        while let Some(orphan) = orphans.pop() {
            if let Err(failure) = session.remove(&orphan).await {
                kept.push(orphan);
                if failure.is_ambiguous() {
                    break; // the write itself will find that out
                }
            }
        }
        kept.append(&mut orphans);
        let mut list = self.orphans.lock();
        list.append(&mut kept);
        list.truncate(SWEEP_FILES_MAX);
    }

    async fn write_all(&self, session: &S, file: &S::File, parts: &[Bytes]) -> Result<(), Failure> {
        let (_, length) = session.piece_bytes();
        let writes = gather(parts, length).enumerate().map(|(number, data)| async move {
            let _piece = permit(&self.pieces).await?;
            write_whole(session, file, number as u64 * length, data).await
        });
        stream::iter(writes).buffer_unordered(PIECES_AT_ONCE).try_collect::<()>().await?;
        session.sync(file).await
    }

    /// Finds out whether a file got its name although the answer was lost.
    async fn settle(&self, file: &S::File, temporary: &str, name: &str, lost: Failure) -> Result<(), Failure> {
        let unknown = |failure: Failure| Failure::new(BackendErrorKind::OutcomeUnknown, failure.to_string());
        if lost.cure == Cure::Silent {
            return Err(unknown(lost));
        }
        let settled = self.retry(|session| async move {
            match session.settle(file, temporary, name).await? {
                Settled::NotPublished => {}
                other => return Ok(other),
            }
            // A request may still be under way on the old connection. Without its temporary file it cannot succeed.
            let removed = session.remove(temporary).await?;
            Ok(match session.settle(file, temporary, name).await? {
                Settled::Unknown if removed => Settled::NotPublished,
                other => other,
            })
        });
        match settled.await.map_err(unknown)? {
            Settled::Published => {
                if let Ok((_, session)) = self.session().await {
                    let _ = session.remove(temporary).await;
                }
                Ok(())
            }
            Settled::NotPublished => Err(lost), // to be tried again from the start
            Settled::Taken => Err(Failure::new(BackendErrorKind::AlreadyExists, "the name is taken")),
            Settled::Unknown => Err(unknown(Failure::new(lost.kind, lost.to_string()))),
        }
    }

    pub async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BackendError> {
        let got = async {
            check_name(name)?;
            let _verb = permit(&self.verbs).await?;
            let range = &range;
            self.retry(|session| async move {
                let (file, size) = session.open(name).await?;
                let read = self.read_range(&session, &file, range.clone(), size).await;
                if read.as_ref().is_err_and(Failure::is_ambiguous) {
                    return read; // closing it would only wait once more
                }
                session.close(file).await?;
                read
            })
            .await
        };
        got.await.map_err(|failure| self.error("read", name, failure))
    }

    async fn read_range(
        &self,
        session: &S,
        file: &S::File,
        range: Option<Range<u64>>,
        size: u64,
    ) -> Result<Bytes, Failure> {
        let range = range.unwrap_or(0..size);
        if range.start > range.end || range.end > size {
            return Err(Failure::new(BackendErrorKind::TooShort, format!("the file has {size} bytes")));
        }
        if range.end - range.start > OBJECT_BYTES_MAX {
            return Err(other("the file is longer than any object"));
        }
        let (length, _) = session.piece_bytes();
        let reads = pieces(range.clone(), length).map(|piece| async move {
            let _piece = permit(&self.pieces).await?;
            session.read(file, piece.start, piece.end - piece.start).await
        });
        let mut reads = stream::iter(reads).buffered(PIECES_AT_ONCE);
        let Some(first) = reads.try_next().await? else { return Ok(Bytes::new()) };
        if range.end - range.start <= length {
            return Ok(first);
        }
        let mut whole = Vec::with_capacity((range.end - range.start) as usize);
        whole.extend_from_slice(&first);
        while let Some(piece) = reads.try_next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole.into())
    }

    pub async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, BackendError> {
        let listed = async {
            let start = prefix.trim_end_matches('/');
            if !start.is_empty() {
                check_name(start)?;
            }
            let _verb = permit(&self.verbs).await?;
            self.retry(|session| async move { walk(&session, start).await }).await
        };
        listed.await.map_err(|failure| self.error("list", prefix, failure))
    }

    pub async fn stat(&self, name: &str) -> Result<ObjectInfo, BackendError> {
        let found = async {
            check_name(name)?;
            let _verb = permit(&self.verbs).await?;
            let size = self.retry(|session| async move { session.look_up(name).await }).await?;
            Ok(ObjectInfo { name: name.to_owned(), size })
        };
        found.await.map_err(|failure| self.error("look up", name, failure))
    }

    pub async fn delete(&self, name: &str) -> Result<(), BackendError> {
        let deleted = async {
            check_name(name)?;
            let _verb = permit(&self.verbs).await?;
            self.retry(
                |session| async move { if session.remove(name).await? { Ok(()) } else { session.find_root().await } },
            )
            .await
        };
        deleted.await.map_err(|failure| self.error("delete", name, failure))
    }
}

/// Removes the temporary file of a write that is dropped in its midst.
struct Cleaner<S: Share>(Option<(S, String)>);

impl<S: Share> Cleaner<S> {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl<S: Share> Drop for Cleaner<S> {
    fn drop(&mut self) {
        let (Some((session, temporary)), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        runtime.spawn(async move {
            // The file's own handle is being closed on another task.
            for wait in RETRY_WAITS {
                tokio::time::sleep(wait).await;
                if session.remove(&temporary).await.is_ok() {
                    break;
                }
            }
        });
    }
}

fn check_name(name: &str) -> Result<(), Failure> {
    if valid_name(name) { Ok(()) } else { Err(Failure::new(BackendErrorKind::BadName, "not an object name")) }
}

/// A file that is not there, or the whole location?
async fn whose_absence<S: Share>(session: &S, failure: Failure) -> Failure {
    match session.find_root().await {
        Ok(()) => failure,
        Err(absence) if absence.is_not_found() => absence.with_kind(BackendErrorKind::NoLocation),
        Err(failure) => failure,
    }
}

/// Gives the file its name, making folders as needed. On failure also whether the name may have been given.
async fn publish<S: Share>(session: &S, file: &S::File, temporary: &str, name: &str) -> Result<(), (Failure, bool)> {
    match session.publish(file, temporary, name).await {
        Err(failure) if failure.is_not_found() => {}
        other => return other.map_err(|failure| (failure, true)),
    }
    for (end, _) in name.match_indices('/') {
        let folder = name.get(..end).unwrap_or_default();
        session.make_folder(folder).await.map_err(|failure| (failure, false))?;
    }
    session.publish(file, temporary, name).await.map_err(|failure| (failure, true))
}

/// Removes temporary files whose writer is gone. What cannot be looked at stays.
async fn sweep<S: Share>(session: &S, now: u64) {
    let Ok(entries) = session.list_folder(TEMPORARY_FOLDER).await else { return };
    let left = entries
        .into_iter()
        .filter(|entry| entry.kind == EntryKind::File && now.saturating_sub(entry.written_at) > SWEEP_GRACE_SECONDS);
    for entry in left.take(SWEEP_FILES_MAX) {
        let _ = session.remove(&format!("{TEMPORARY_FOLDER}/{}", entry.name)).await;
    }
}

/// All objects below a folder, ascending. Only a missing location is a failure, not a missing folder.
async fn walk<S: Share>(session: &S, start: &str) -> Result<Vec<ObjectInfo>, Failure> {
    let list = |folder: String| async move {
        let entries = session.list_folder(&folder).await;
        (folder, entries)
    };
    let mut found = Vec::new();
    let mut waiting = vec![start.to_owned()];
    let mut listing = FuturesUnordered::new();
    loop {
        while listing.len() < FOLDERS_AT_ONCE
            && let Some(folder) = waiting.pop()
        {
            listing.push(list(folder));
        }
        let Some((folder, entries)) = listing.next().await else { break };
        let entries = match entries {
            Err(failure) if failure.is_not_found() && !folder.is_empty() => {
                if folder == start {
                    session.find_root().await?;
                }
                continue;
            }
            other => other?,
        };
        for entry in entries {
            let name = if folder.is_empty() { entry.name } else { format!("{folder}/{}", entry.name) };
            if !valid_name(&name) || name == TEMPORARY_FOLDER || name == "lost+found" {
                continue;
            }
            match entry.kind {
                EntryKind::File => found.push(ObjectInfo { name, size: entry.size }),
                EntryKind::Folder => waiting.push(name),
                EntryKind::Strange => {}
            }
        }
        if found.len() > LIST_OBJECTS_MAX || waiting.len() > LIST_OBJECTS_MAX {
            return Err(other("the location has more objects than a list may have"));
        }
    }
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    found.dedup_by(|a, b| a.name == b.name);
    Ok(found)
}
