//! A small S3 server in this process that keeps objects in memory and fails as a test tells it: before or after the
//! effect, in mid-body, with any status, or not at all. It knows nothing of signatures; the gateway's tests do.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Before each piece of a slow answer, and of a body that is taken slowly.
pub const SLOW_PAUSE: Duration = Duration::from_millis(150);

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Act {
    /// An error without effect.
    Refuse(u16, &'static str),
    /// An error after the effect.
    RefuseAfter(u16, &'static str),
    /// The connection closes without an answer and without effect.
    DropBefore,
    /// The same after the effect.
    DropAfter,
    /// The answer's body ends after so many bytes, then the connection closes.
    Truncate(usize),
    /// The answer's body stops after so many bytes, and the connection stays.
    Stall(usize),
    /// The answer's body comes in so many pieces, with a pause before each.
    Slow(usize),
    /// The answer's body is cut after so many bytes, and its length says so: a document that breaks off.
    Cut(usize),
    /// The answer has no length and ends with the connection.
    NoLength(usize),
    /// The request's body is taken in so many pieces, with a pause before each.
    TakeSlowly(usize),
    /// So many bytes of the request's body are taken, and no more; the connection stays.
    StopTaking(usize),
    /// The range is not looked at.
    IgnoreRange,
    /// A success without effect.
    Pretend,
}

struct Rule {
    method: &'static str,
    part: String,
    times: usize,
    act: Act,
}

#[derive(Default)]
pub struct State {
    pub objects: BTreeMap<String, (Vec<u8>, String)>,
    rules: Vec<Rule>,
    /// Method and target of each request.
    pub log: Vec<String>,
    /// Entries of a page of a list.
    pub page: usize,
    /// Looks at If-None-Match.
    pub conditional: bool,
    /// Keys a list does not show yet.
    pub hidden: Vec<String>,
    /// So many lists show nothing.
    pub late_lists: usize,
}

#[derive(Clone)]
pub struct Server {
    pub endpoint: String,
    pub state: Arc<Mutex<State>>,
}

struct Request {
    method: String,
    target: String,
    key: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
    length: usize,
}

impl Server {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State { page: 1000, conditional: true, ..State::default() }));
        let server = Self { endpoint, state };
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = accepting.clone();
                tokio::spawn(async move { server.serve(stream).await });
            }
        });
        server
    }

    /// The next `times` requests of this method whose target has this part.
    pub fn on(&self, method: &'static str, part: &str, times: usize, act: Act) {
        self.state.lock().rules.push(Rule { method, part: part.to_owned(), times, act });
    }

    pub fn forget(&self) {
        let mut state = self.state.lock();
        state.rules.clear();
        state.log.clear();
    }

    /// How many requests of this method had this part in their target.
    pub fn count(&self, method: &str, part: &str) -> usize {
        let is_one = |line: &&String| line.starts_with(&format!("{method} ")) && line.contains(part);
        self.state.lock().log.iter().filter(is_one).count()
    }

    async fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let mut request = read_head(&mut stream).await?;
            let act = self.act_for(&request);
            request.body = read_body(&mut stream, &request, act).await?;
            if act == Some(Act::DropBefore) {
                return None;
            }
            let is_head = request.method == "HEAD";
            let answer = match act {
                Some(Act::Refuse(status, code)) => refusal(status, code),
                Some(Act::RefuseAfter(status, code)) => {
                    self.perform(&request);
                    refusal(status, code)
                }
                Some(Act::Pretend) => answer(204, String::new(), Vec::new()),
                Some(Act::IgnoreRange) => {
                    let whole = Request { headers: BTreeMap::new(), ..request };
                    self.perform(&whole)
                }
                _ => self.perform(&request),
            };
            let sent = match act {
                Some(Act::DropAfter) => return None,
                // The answer to this has no body, whatever its length says.
                _ if is_head => 0,
                Some(Act::Truncate(bytes) | Act::Stall(bytes) | Act::NoLength(bytes) | Act::Cut(bytes)) => {
                    bytes.min(answer.body.len())
                }
                _ => answer.body.len(),
            };
            let length = match act {
                Some(Act::Cut(_)) => sent,
                _ => answer.length,
            };
            let mut head = format!("HTTP/1.1 {} X\r\n{}", answer.status, answer.headers);
            if matches!(act, Some(Act::NoLength(_))) {
                head.push_str("connection: close\r\n\r\n");
            } else {
                let _ = write!(head, "content-length: {length}\r\n\r\n");
            }
            stream.write_all(head.as_bytes()).await.ok()?;
            let pieces = if let Some(Act::Slow(pieces)) = act { pieces } else { 1 };
            for piece in answer.body[..sent].chunks(sent.div_ceil(pieces).max(1)) {
                if pieces > 1 {
                    tokio::time::sleep(SLOW_PAUSE).await;
                }
                stream.write_all(piece).await.ok()?;
                stream.flush().await.ok()?;
            }
            match act {
                Some(Act::Truncate(_) | Act::NoLength(_)) => return None,
                // Until the other side gives up.
                Some(Act::Stall(_)) => drop(stream.read_u8().await),
                _ => {}
            }
        }
    }

    fn act_for(&self, request: &Request) -> Option<Act> {
        let mut state = self.state.lock();
        let line = format!("{} {}", request.method, request.target);
        state.log.push(line);
        let fits =
            |rule: &&mut Rule| rule.times > 0 && rule.method == request.method && request.target.contains(&rule.part);
        let rule = state.rules.iter_mut().find(fits)?;
        rule.times -= 1;
        Some(rule.act)
    }

    fn perform(&self, request: &Request) -> Answer {
        let mut state = self.state.lock();
        if request.key.is_empty() {
            if state.late_lists > 0 {
                state.late_lists -= 1;
                return list(&State { page: 1, ..State::default() }, &request.target);
            }
            return list(&state, &request.target);
        }
        let stored = state.objects.get(&request.key);
        match (request.method.as_str(), stored) {
            ("PUT", Some(_)) if state.conditional && request.headers.contains_key("if-none-match") => {
                refusal(412, "PreconditionFailed")
            }
            ("PUT", _) => {
                let mark = request.headers.get("x-amz-meta-stillframe-mark").cloned().unwrap_or_default();
                state.objects.insert(request.key.clone(), (request.body.clone(), mark));
                answer(200, String::new(), Vec::new())
            }
            ("DELETE", _) => {
                state.objects.remove(&request.key);
                answer(204, String::new(), Vec::new())
            }
            ("HEAD", None) => Answer { length: 0, body: Vec::new(), ..refusal(404, "") },
            (_, None) => refusal(404, "NoSuchKey"),
            ("HEAD", Some((bytes, mark))) => {
                let headers = format!("x-amz-meta-stillframe-mark: {mark}\r\n");
                Answer { length: bytes.len(), ..answer(200, headers, Vec::new()) }
            }
            (_, Some((bytes, _))) => read(bytes, request.headers.get("range")),
        }
    }
}

fn answer(status: u16, headers: String, body: Vec<u8>) -> Answer {
    Answer { status, headers, length: body.len(), body }
}

fn refusal(status: u16, code: &str) -> Answer {
    let body = format!("<Error><Code>{code}</Code><Message>as told</Message></Error>");
    answer(status, String::new(), body.into_bytes())
}

fn read(bytes: &[u8], range: Option<&String>) -> Answer {
    let Some(range) = range else { return answer(200, String::new(), bytes.to_vec()) };
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    if first >= bytes.len() {
        return refusal(416, "InvalidRange");
    }
    let last = last.min(bytes.len() - 1);
    let headers = format!("content-range: bytes {first}-{last}/{}\r\n", bytes.len());
    answer(206, headers, bytes[first..=last].to_vec())
}

fn list(state: &State, target: &str) -> Answer {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let value = |name: &str| {
        let pair = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        pair.unwrap_or_default().replace("%2F", "/")
    };
    let (prefix, after) = (value("prefix"), value("continuation-token"));
    let shown = |key: &&String| key.starts_with(&prefix) && **key > after && !state.hidden.contains(key);
    let all: Vec<&String> = state.objects.keys().filter(shown).collect();
    let page = &all[..all.len().min(state.page)];
    let mut body = format!("<ListBucketResult><IsTruncated>{}</IsTruncated>", page.len() < all.len());
    if let (Some(last), true) = (page.last(), page.len() < all.len()) {
        let _ = write!(body, "<NextContinuationToken>{last}</NextContinuationToken>");
    }
    for key in page {
        let _ = write!(body, "<Contents><Key>{key}</Key><Size>{}</Size></Contents>", state.objects[*key].0.len());
    }
    body.push_str("</ListBucketResult>");
    answer(200, String::new(), body.into_bytes())
}

/// The bytes after a request's head; `None` when the connection ends before.
async fn read_body(stream: &mut BufReader<TcpStream>, request: &Request, act: Option<Act>) -> Option<Vec<u8>> {
    let length = request.headers.get("content-length").map_or(0, |value| value.parse().unwrap());
    let mut body = vec![0; length];
    let pieces = if let Some(Act::TakeSlowly(pieces)) = act { pieces } else { 1 };
    for piece in body.chunks_mut(length.div_ceil(pieces).max(1)) {
        if pieces > 1 {
            tokio::time::sleep(SLOW_PAUSE).await;
        }
        match act {
            Some(Act::StopTaking(bytes)) => {
                let taken = bytes.min(piece.len());
                stream.read_exact(&mut piece[..taken]).await.ok()?;
                return std::future::pending().await;
            }
            _ => stream.read_exact(piece).await.ok()?,
        };
    }
    Some(body)
}

async fn read_head(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let path = target.split('?').next().unwrap_or_default();
    // `/bucket/key`; nothing here needs escapes.
    let key = path.trim_start_matches('/').split_once('/').map_or("", |(_, key)| key).to_owned();
    Some(Request { method, target, key, headers, body: Vec::new() })
}
