//! `open`: a page by a port on this machine.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;
use uuid::Uuid;

use crate::cli::OpenArgs;
use crate::commands::Session;
use crate::ended::asked_to_end;
use crate::error::Failure;
use crate::forward::{Forward, router};
use crate::screen::Screen;
use crate::surface::{Access, Question};

/// Serves the page until a signal comes.
pub(super) async fn open(session: &Session, args: &OpenArgs, screen: &mut Screen<'_>) -> Result<(), Failure> {
    if session.surface.access == Access::Server && session.namespace_given {
        return Err(Failure::Usage(
            "with --server the page has what its token may see: leave -n out".to_owned(),
        ));
    }
    let failed = |what: &str, error: std::io::Error| Failure::Port(format!("{what}: {error}"));
    let stop = asked_to_end().map_err(|error| failed("signals cannot be caught", error))?;
    let place = session.place();
    screen.progress("asking whether you may");
    // What is wrong is better said here than in a browser.
    let tried = session.surface.ask(&Question::new(&place, "apps")).await;
    tried.map(drop)?;
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let listener = TcpListener::bind(wanted).await.map_err(|error| {
        Failure::Port(format!("port {} cannot be listened on: {error}; choose another by --port", args.port))
    })?;
    let address = listener.local_addr().map_err(|error| failed("the port has no address", error))?;
    let secret = Uuid::new_v4().simple().to_string();
    screen.write(format!("http://{address}/{secret}/\n").as_bytes())?;
    screen.note("whoever has this address sees what you may see; Ctrl-C ends it");
    let forward = Forward { surface: session.surface.clone(), place, secret, address };
    tokio::select! {
        served = async { axum::serve(listener, router(forward)).await } => {
            served.map_err(|error| failed("the port", error))
        }
        _ = stop => Ok(()),
    }
}
