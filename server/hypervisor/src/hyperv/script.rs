//! A host for tests that answers from a list.

use super::wire::{CallError, Fault, Node, Request, Timeouts, Wsman, parse};
use async_trait::async_trait;
use std::collections::VecDeque;
use std::sync::Mutex;

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
