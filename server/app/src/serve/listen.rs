//! The console's socket, with or without TLS.

use super::data_dir::DataDir;
use super::options::Options;
use super::tls::Tls;
use crate::failure::Failure;
use axum::Router;
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long open requests may take once the server stops; live streams end at once.
const STOP_SECONDS_MAX: u64 = 3;

/// A bound socket.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    tls: bool,
}

impl Listener {
    /// Takes the port. Plain HTTP is refused on any address but loopback.
    pub fn bind(options: &Options) -> Result<Self, Failure> {
        let wanted = options.listen;
        if options.plain_http && !wanted.ip().is_loopback() {
            return Err(Failure::because(
                "Plain HTTP is refused",
                format!(
                    "{wanted} can be reached from other machines, and passwords would cross the network in the clear"
                ),
            )
            .hint("Leave --plain-http out, or listen on 127.0.0.1 behind a proxy that does TLS."));
        }
        let bound = TcpListener::bind(wanted).and_then(|socket| {
            socket.set_nonblocking(true)?;
            Ok((socket.local_addr()?, socket))
        });
        let (address, socket) = bound.map_err(|error| {
            Failure::new(format!("The address {wanted} cannot be used"), &error)
                .hint("Another program may listen there: choose another port with --listen.")
        })?;
        Ok(Self { socket, address, tls: !options.plain_http })
    }

    /// Whether requests come over TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Loads the certificate, if one is needed.
    pub fn make_secure(&self, options: &Options, data: &DataDir) -> Result<Option<Tls>, Failure> {
        if self.tls { Tls::load(options, data).map(Some) } else { Ok(None) }
    }

    /// Starts to answer.
    pub fn serve(self, tls: Option<Tls>, router: Router) -> Result<Serving, Failure> {
        let handle = Handle::new();
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        let failed = |error: io::Error| Failure::new("The console could not be started", &error);
        let (fingerprint, self_signed) =
            tls.as_ref().map_or((None, false), |tls| (Some(hex::encode_upper(tls.fingerprint)), tls.self_signed));
        let task = if let Some(tls) = tls {
            let config = RustlsConfig::from_config(tls.config);
            let server = axum_server::from_tcp_rustls(self.socket, config).map_err(failed)?.handle(handle.clone());
            tokio::spawn(server.serve(service))
        } else {
            let server = axum_server::from_tcp(self.socket).map_err(failed)?.handle(handle.clone());
            tokio::spawn(server.serve(service))
        };
        Ok(Serving {
            handle,
            task: tokio::sync::Mutex::new(task),
            address: self.address,
            tls: self.tls,
            fingerprint,
            self_signed,
        })
    }
}

/// A console that answers.
pub struct Serving {
    handle: Handle<SocketAddr>,
    task: tokio::sync::Mutex<JoinHandle<io::Result<()>>>,
    address: SocketAddr,
    tls: bool,
    fingerprint: Option<String>,
    self_signed: bool,
}

impl Serving {
    /// Where a browser finds it, as far as this machine can tell.
    pub fn addresses(&self) -> Vec<String> {
        let scheme = if self.tls { "https" } else { "http" };
        let port = self.address.port();
        let url = |ip: IpAddr| format!("{scheme}://{}/", SocketAddr::new(ip, port));
        if !self.address.ip().is_unspecified() {
            return vec![url(self.address.ip())];
        }
        let mut addresses = vec![format!("{scheme}://localhost:{port}/")];
        addresses.extend(outward_address().filter(|ip| !ip.is_loopback()).map(url));
        addresses
    }

    /// SHA-256 of the certificate in pairs of digits.
    pub fn fingerprint(&self) -> Option<String> {
        let digits = self.fingerprint.as_ref()?;
        let pairs: Vec<&str> = digits.as_bytes().chunks(2).filter_map(|pair| std::str::from_utf8(pair).ok()).collect();
        Some(pairs.join(":"))
    }

    /// The certificate was made by us.
    pub fn self_signed(&self) -> bool {
        self.self_signed
    }

    /// Waits for an end that nobody asked for.
    pub async fn ended(&self) -> io::Result<()> {
        (&mut *self.task.lock().await).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    /// Takes no more requests and ends the open ones.
    pub async fn stop(&self) {
        self.handle.graceful_shutdown(Some(Duration::from_secs(STOP_SECONDS_MAX)));
        let mut task = self.task.lock().await;
        if !task.is_finished() {
            let _ = (&mut *task).await;
        }
    }
}

/// The address other machines of the network likely reach this one by. No packet is sent.
fn outward_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    // A documentation address (RFC 5737): the kernel only chooses a route for it.
    socket.connect(("192.0.2.1", 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
