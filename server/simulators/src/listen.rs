//! The listening socket: accepts connections, speaks TLS where asked to, serves HTTP/1.1 on them, and ends with its host.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Headers of a request at most.
const HEADERS_MAX: usize = 64;
/// Connections at a time.
const CONNECTIONS_MAX: usize = 256;
/// Time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the headers of a request.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(120);

/// What makes a service fail: the connection is closed without an answer.
pub(crate) fn dropped() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "dropped on purpose")
}

/// Accepts connections until the host stops. `connection` makes the service of each; one that fails closes it.
pub(crate) async fn run<S, B>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    stop: CancellationToken,
    connection: impl Fn() -> S,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = io::Error> + Send + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    let tracker = tokio_util::task::TaskTracker::new();
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = stop.cancelled() => break,
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
        let (service, tls, stop) = (connection(), tls.clone(), stop.clone());
        tracker.spawn(async move {
            tokio::select! {
                () = open(tls, stream, service) => {}
                () = stop.cancelled() => {}
            }
            drop(slot);
        });
    }
    tracker.close();
    tracker.wait().await;
}

async fn open<S, B>(tls: Option<TlsAcceptor>, stream: TcpStream, service: S)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = io::Error>,
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return serve(stream, service).await };
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await else { return };
    serve(stream, service).await;
}

async fn serve<T, S, B>(stream: T, service: S)
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request<Incoming>, Response = Response<B>, Error = io::Error>,
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::trace!(%error, "connection ended");
    }
}
