//! A host for tests that answers from a list.

use super::bytes::{Files, Frozen, NewDisk};
use super::wire::{CallError, Fault, Node, Request, Timeouts, Wsman, parse};
use async_trait::async_trait;
use bytes::Bytes;
use disk::container::vhdx::VhdxOptions;
use domain::Extent;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// One answer: the body's element, or the name of a fault.
pub(super) type Answer<T = &'static str> = Result<T, &'static str>;

/// Answers requests in order.
pub(super) struct Script {
    answers: Mutex<VecDeque<Answer<String>>>,
    asked: Mutex<Vec<Request>>,
    timeouts: Timeouts,
}

impl Script {
    pub(super) fn new<T: Into<String>>(answers: impl IntoIterator<Item = Answer<T>>) -> Self {
        Self {
            answers: Mutex::new(answers.into_iter().map(|answer| answer.map(Into::into)).collect()),
            asked: Mutex::default(),
            timeouts: Timeouts::default(),
        }
    }

    /// The requests so far.
    pub(super) fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }
}

/// The answer of a method that started a job.
#[allow(clippy::unnecessary_wraps)] // a list of answers holds faults as well
pub(super) fn started(method: &str, job_class: &str) -> Answer<&'static str> {
    let text = format!(
        "<{method}_OUTPUT><Job><Address>x</Address><ReferenceParameters><ResourceURI>\
         http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/{job_class}</ResourceURI><SelectorSet>\
         <Selector Name=\"InstanceID\">J</Selector></SelectorSet></ReferenceParameters></Job>\
         <ReturnValue>4096</ReturnValue></{method}_OUTPUT>"
    );
    Ok(text.leak())
}

/// A job's state.
#[allow(clippy::unnecessary_wraps)] // the same
pub(super) fn state(code: u32, more: &str) -> Answer<&'static str> {
    Ok(format!("<Msvm_ConcreteJob><JobState>{code}</JobState>{more}</Msvm_ConcreteJob>").leak())
}

#[async_trait]
impl Wsman for Script {
    fn host(&self) -> &'static str {
        "script"
    }

    fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    async fn send(&self, request: Request) -> Result<Node, CallError> {
        self.asked.lock().unwrap().push(request);
        match self.answers.lock().unwrap().pop_front().expect("an answer") {
            Ok(body) => Ok(parse(&body).unwrap()),
            Err(name) => Err(CallError::Fault(Fault { names: vec![name.into()], ..Fault::default() })),
        }
    }
}

/// Files that only remember what was done with them.
#[derive(Default)]
pub(super) struct FakeFiles {
    deeds: Arc<Mutex<Vec<String>>>,
    /// Size and id of every disk.
    disk: (u64, &'static str),
}

impl FakeFiles {
    pub(super) fn with_disk(size_bytes: u64, id: &'static str) -> Self {
        Self { disk: (size_bytes, id), ..Self::default() }
    }

    pub(super) fn deeds(&self) -> Vec<String> {
        self.deeds.lock().unwrap().clone()
    }

    fn note(&self, deed: String) {
        self.deeds.lock().unwrap().push(deed);
    }
}

#[async_trait]
impl Files for FakeFiles {
    async fn free_bytes(&self, _: &str) -> crate::Result<u64> {
        Ok(1 << 40)
    }

    async fn open_disk(&self, path: &str) -> crate::Result<Arc<dyn Frozen>> {
        self.note(format!("open {path}"));
        Ok(Arc::new(FakeDisk(self.disk)))
    }

    async fn create_disk(&self, path: &str, _: VhdxOptions) -> crate::Result<Box<dyn NewDisk>> {
        self.note(format!("create {path}"));
        Ok(Box::new(FakeFiles { deeds: self.deeds.clone(), ..Self::default() }))
    }

    async fn remove(&self, path: &str) -> crate::Result<()> {
        self.note(format!("remove {path}"));
        Ok(())
    }

    async fn make_folder(&self, path: &str) -> crate::Result<()> {
        self.note(format!("make {path}"));
        Ok(())
    }

    async fn close(&self) {}
}

struct FakeDisk((u64, &'static str));

#[async_trait]
impl Frozen for FakeDisk {
    fn size_bytes(&self) -> u64 {
        self.0.0
    }

    fn identifier(&self) -> String {
        self.0.1.to_owned()
    }

    async fn allocated(&self) -> crate::Result<Vec<Extent>> {
        Ok(vec![Extent::new(0, 512)])
    }

    fn stream(&self, range: Extent) -> BoxStream<'static, crate::Result<Bytes>> {
        futures_util::stream::iter([Ok(Bytes::from(vec![7; range.length as usize]))]).boxed()
    }

    fn stream_areas(&self, areas: Vec<Extent>) -> BoxStream<'static, crate::Result<(u64, Bytes)>> {
        let piece = |area: Extent| Ok((area.offset, Bytes::from(vec![7; area.length as usize])));
        futures_util::stream::iter(areas.into_iter().map(piece).collect::<Vec<_>>()).boxed()
    }
}

#[async_trait]
impl NewDisk for FakeFiles {
    async fn write(&mut self, offset: u64, data: Bytes) -> crate::Result<()> {
        self.note(format!("write {offset}+{}", data.len()));
        Ok(())
    }

    async fn finish(self: Box<Self>) -> crate::Result<()> {
        self.note("finish".into());
        Ok(())
    }

    async fn abandon(self: Box<Self>) -> crate::Result<()> {
        self.note("abandon".into());
        Ok(())
    }
}
