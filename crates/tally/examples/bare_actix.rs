//! The yardstick of `docs/performance.md`: an actix-web handler with the same JSON in and out as
//! the interaction endpoint and nothing behind it. It parses the body, and answers a constant of
//! the same shape and size; there is no authentication, no log, no fold and no state.
//!
//! ```sh
//! cargo run --release -p tally --example bare_actix -- --listen 127.0.0.1:8090
//! ```

use std::io::Write;
use std::net::SocketAddr;

use actix_web::{App, HttpResponse, HttpServer, web};
use clap::Parser;
use serde::{Deserialize, Serialize};
use tally_domain::{Counters, InteractionType, ResourceType, Toggles};

#[derive(Parser)]
#[command(about = "A bare actix-web handler with the interaction endpoint's JSON in and out")]
struct Args {
    /// Where to listen; port 0 takes a free one, which is printed
    #[arg(long, default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// Worker threads [default: the cores this process may use]
    #[arg(long)]
    workers: Option<usize>,
}

#[derive(Deserialize)]
struct Request {
    resource_type: ResourceType,
    resource_id: u64,
    interaction_type: InteractionType,
}

#[derive(Serialize)]
struct Answer {
    resource_type: ResourceType,
    resource_id: u64,
    interaction_type: InteractionType,
    outcome: &'static str,
    visible: bool,
    counters: Counters,
    user: Toggles,
    event_id: &'static str,
    position: &'static str,
}

async fn interact(request: web::Json<Request>) -> HttpResponse {
    let request = request.into_inner();
    HttpResponse::Ok().json(Answer {
        resource_type: request.resource_type,
        resource_id: request.resource_id,
        interaction_type: request.interaction_type,
        outcome: "applied",
        visible: true,
        counters: Counters {
            views: 12_345,
            likes: 678,
            shares: 90,
            bookmarks: 123,
            comments: 45,
        },
        user: Toggles {
            liked: true,
            bookmarked: false,
        },
        event_id: "0193a6f0-7b3e-7c4a-9d3e-2f1b5c6d7e8f",
        position: "AQGTpvB7PnxKAwAAABEAAAAAAAAAq83vAA",
    })
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let workers = match args.workers {
        Some(workers) => workers,
        None => std::thread::available_parallelism()?.get(),
    };
    let server =
        HttpServer::new(|| App::new().route("/api/v1/metrics/interact/", web::post().to(interact)))
            .workers(workers)
            .tcp_nodelay(true)
            .bind(args.listen)?;
    let mut out = std::io::stdout();
    for address in server.addrs() {
        writeln!(out, "listening on http://{address}")?;
    }
    out.flush()?;
    server.run().await
}
