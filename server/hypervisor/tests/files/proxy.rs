//! Stands between a client and a server, and does something to what the server sends.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It ends.
    Cut,
    /// From there on nothing is passed on, and the connection stays.
    Stall,
    /// One bit arrives wrong.
    Flip,
}

/// What happens, after how many bytes either way, and to how many connections.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub act: Act,
    pub after_bytes: usize,
    pub connections: usize,
}

pub struct Proxy {
    pub port: u16,
    /// Connections so far.
    pub connections: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    pub async fn start(server: u16, plan: Plan) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("its port").port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let task = tokio::spawn(async move {
            let mut lines = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let is_hit = counted.fetch_add(1, Ordering::SeqCst) < plan.connections;
                let plan = Plan { after_bytes: if is_hit { plan.after_bytes } else { usize::MAX }, ..plan };
                lines.spawn(async move {
                    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await.expect("the server");
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        () = pass(from_client, to_server, plan) => {}
                        () = pass(from_server, to_client, plan) => {}
                    }
                });
            }
        });
        Self { port, connections, _task: AbortOnDropHandle::new(task) }
    }
}

type Reader = tokio::net::tcp::OwnedReadHalf;
type Writer = tokio::net::tcp::OwnedWriteHalf;

/// Returns when the connection has to end.
async fn pass(mut from: Reader, mut to: Writer, plan: Plan) {
    let (mut passed, mut buffer) = (0, vec![0; 64 << 10]);
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        let before = passed;
        passed += read;
        let mut good = read;
        if before < plan.after_bytes && passed >= plan.after_bytes {
            let at = plan.after_bytes - before - 1;
            match plan.act {
                Act::Flip => buffer[at] ^= 0x10,
                Act::Cut | Act::Stall => good = at,
            }
        }
        if to.write_all(&buffer[..good]).await.is_err() {
            return;
        }
        if good < read {
            if plan.act == Act::Stall {
                std::future::pending::<()>().await;
            }
            return;
        }
    }
}
