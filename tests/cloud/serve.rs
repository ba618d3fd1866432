//! `aisix-cloud serve`: puts the parts together and runs until it is told to stop.
//!
//! Once everything listens, the addresses are in `DATA/addresses.json` and one line goes to standard output.

use crate::{
    authority::{Authority, AuthorityError},
    cli::ServeArgs,
    cloud::Cloud,
    durable,
    etcd::{BadEtcdUrl, Forward, Memory, Projection},
    faults::Faults,
    ledger::Ledger,
    listener::{self, TlsError},
    reload::{ReloadError, ResourcesFile},
    resources::Budgets,
    view,
};
use serde_json::json;
use std::{
    fs::{self, File, TryLockError},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, RwLock},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// Why the Cloud does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The authority could not be opened or could not sign.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The resources file cannot be used.
    #[error(transparent)]
    Resources(#[from] ReloadError),
    /// The etcd URL cannot be used.
    #[error(transparent)]
    Etcd(#[from] BadEtcdUrl),
    /// An address is taken, or not one of this machine.
    #[error("cannot listen on {address}; choose another address with {flag}")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// How to ask for another.
        flag: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The view is not protected by anything but being on loopback.
    #[error("--view {0}: the view is plain HTTP and only for this machine; use a loopback address")]
    ViewNotLoopback(SocketAddr),
    /// A second process would write into the same files.
    #[error("{} is in use by another aisix-cloud", .0.display())]
    InUse(PathBuf),
    /// The data folder refused us.
    #[error("cannot use {}", path.display())]
    Data {
        /// What was read or written.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The runtime or the signal handlers could not be made.
    #[error("cannot start")]
    Runtime(#[source] io::Error),
}

/// Serves until SIGTERM or SIGINT.
pub fn run(args: ServeArgs) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)?;
    runtime.block_on(serve(args))
}

async fn serve(args: ServeArgs) -> Result<(), ServeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Runtime)?;
    let data = args.data.as_path();
    let authority = Authority::open_or_create(data)?;
    let _lock = lock(data)?;
    let addresses = data.join("addresses.json");
    // Whoever waits for this file must not find an earlier run's.
    if let Err(source) = fs::remove_file(&addresses)
        && source.kind() != io::ErrorKind::NotFound
    {
        return Err(ServeError::Data { path: addresses, source });
    }

    if !args.view.ip().is_loopback() {
        return Err(ServeError::ViewNotLoopback(args.view));
    }
    let (manager_listener, manager) = bind(args.listen, "--listen").await?;
    let (view_listener, view) = bind(args.view, "--view").await?;
    let tls = listener::acceptor(&authority, &authority.server(&server_names(&args))?)?;
    let journal = data.join("usage.jsonl");
    let ledger =
        Ledger::open(&journal).map_err(|source| ServeError::Data { path: journal, source })?;

    let (projection, budgets, file) = source(&args)?;
    let cloud = Arc::new(Cloud {
        authority,
        renewal_days: args.days,
        prefix: args.prefix,
        projection,
        budgets: RwLock::new(budgets),
        budget_checks: Mutex::default(),
        ledger: Mutex::new(ledger),
        faults: Mutex::new(Faults::default()),
        connections: Mutex::default(),
        renewals_asked: Mutex::default(),
    });
    if let Some((file, memory)) = file {
        tokio::spawn(file.follow(Arc::clone(&cloud), memory));
    }
    tokio::spawn(listener::serve(manager_listener, tls, Arc::clone(&cloud)));
    tokio::spawn(view::serve(view_listener, cloud));

    let listed = json!({"manager": manager.to_string(), "view": view.to_string()}).to_string();
    durable::replace(&addresses, 0o644, listed.as_bytes())
        .map_err(|source| ServeError::Data { path: addresses, source })?;
    println!("aisix-cloud ready: manager https://{manager} view http://{view}");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

type Source = (Projection, Budgets, Option<(ResourcesFile, Arc<Memory>)>);

/// The projection, from the file or the etcd that was asked for.
fn source(args: &ServeArgs) -> Result<Source, ServeError> {
    if let Some(path) = &args.source.resources {
        let (file, memory, resources) = ResourcesFile::open(path, &args.prefix, &args.data)?;
        let memory = Arc::new(memory);
        Ok((Projection::Memory(Arc::clone(&memory)), resources.budgets, Some((file, memory))))
    } else {
        let url = args.source.etcd.as_deref().unwrap_or_default();
        Ok((Projection::Etcd(Forward::new(url)?), Budgets::default(), None))
    }
}

/// The names that a client may know the manager by.
fn server_names(args: &ServeArgs) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    if !args.listen.ip().is_unspecified() {
        names.push(args.listen.ip().to_string());
    }
    names.extend(args.server_names.iter().cloned());
    names.sort();
    names.dedup();
    names
}

async fn bind(
    address: SocketAddr,
    flag: &'static str,
) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Listen { address, flag, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Held for as long as the process lives.
fn lock(data: &Path) -> Result<File, ServeError> {
    let path = data.join("serve.lock");
    let file =
        File::create(&path).map_err(|source| ServeError::Data { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ServeError::InUse(data.to_owned())),
        Err(TryLockError::Error(source)) => Err(ServeError::Data { path, source }),
    }
}
