//! A host for tests that answers from a list.

use super::fault::Fault;
use super::session::{ServiceContent, Vim};
use super::soap::{CallError, Request};
use super::transport::Timeouts;
use super::xml::{Node, parse};
use async_trait::async_trait;
use std::collections::VecDeque;
use std::sync::Mutex;

/// Answers calls in order: `Ok` is the inside of the response, `Err` the name of a fault.
pub(super) struct Script {
    answers: Mutex<VecDeque<Result<String, &'static str>>>,
    asked: Mutex<Vec<String>>,
    content: ServiceContent,
    timeouts: Timeouts,
}

impl Script {
    pub(super) fn new(answers: impl IntoIterator<Item = Result<String, &'static str>>) -> Self {
        let managers = "<c><propertyCollector type='PropertyCollector'>pc</propertyCollector>\
            <about><apiVersion>8.0.2.0</apiVersion><build>1</build></about></c>";
        Self {
            answers: Mutex::new(answers.into_iter().collect()),
            asked: Mutex::default(),
            content: ServiceContent::from_node(&parse(managers).unwrap()),
            timeouts: Timeouts::default(),
        }
    }

    /// The calls so far, as they would go out.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl Vim for Script {
    fn host(&self) -> &'static str {
        "script"
    }

    fn content(&self) -> &ServiceContent {
        &self.content
    }

    fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    async fn call(&self, request: Request) -> Result<Node, CallError> {
        self.asked.lock().unwrap().push(request.element());
        match self.answers.lock().unwrap().pop_front().expect("an answer") {
            Ok(inside) => Ok(parse(&format!("<r>{inside}</r>")).unwrap()),
            Err(name) => Err(CallError::Fault(Fault { name: name.into(), ..Fault::default() })),
        }
    }

    async fn read(&self, request: Request) -> Result<Node, CallError> {
        self.call(request).await
    }
}
