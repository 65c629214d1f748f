//! Who may come in: limits of number, and who may do what.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use clap::Args;
use clap::builder::BoolishValueParser;
use idempotent_consumer::cli::{WrongUse, parse_duration};
use sqlx::PgPool;
use tokio::sync::Semaphore;

use super::Gateway;
use super::auth::{ApiKey, Scope, bearer};
use super::code::Code;
use super::limits::{Limiter, Quota};
use super::look::{PLACE, on_connection, undisturbed};
use super::problem::Problem;
use super::store;

/// The client of everybody where no key is asked for. No key can be of that name.
pub(super) const NOBODY: &str = "nobody";

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Limits, and who may come in.
#[derive(Args)]
pub(crate) struct GuardArgs {
    /// Ask nobody for an API key; only where --listen is of this machine
    #[arg(
        long,
        env = "ORDER_PRODUCER_NO_AUTH",
        value_parser = BoolishValueParser::new(),
        hide_env_values = true
    )]
    no_auth: bool,

    /// Requests a second of an API key, in the mean of ten seconds; 0 is no limit
    #[arg(
        long,
        env = "ORDER_PRODUCER_RATE_PER_KEY",
        default_value_t = 500,
        value_name = "N",
        hide_env_values = true
    )]
    rate_per_key: u32,

    /// Likewise of an address, or of the 64 bit network of an IPv6 address
    #[arg(
        long,
        env = "ORDER_PRODUCER_RATE_PER_ADDRESS",
        default_value_t = 1000,
        value_name = "N",
        hide_env_values = true
    )]
    rate_per_address: u32,

    /// Requests that may be under way; more are answered 503
    #[arg(
        long,
        env = "ORDER_PRODUCER_MAX_REQUESTS",
        default_value_t = 1000,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=100_000),
        hide_env_values = true
    )]
    max_requests: u32,

    /// Connections that may be open; more wait until one is closed
    #[arg(
        long,
        env = "ORDER_PRODUCER_MAX_CONNECTIONS",
        default_value_t = 4000,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000),
        hide_env_values = true
    )]
    max_connections: u32,

    /// Most bytes of a request's body
    #[arg(
        long,
        env = "ORDER_PRODUCER_BODY_BYTES",
        default_value_t = 1024 * 1024,
        value_name = "BYTES",
        hide_env_values = true
    )]
    body_bytes: u32,

    /// How long a request may take, its body included
    #[arg(
        long,
        env = "ORDER_PRODUCER_REQUEST_TIMEOUT",
        default_value = "10s",
        value_name = "DURATION",
        value_parser = parse_timeout,
        hide_env_values = true
    )]
    request_timeout: Duration,
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        time if time < Duration::from_millis(100) => Err("must be at least 100ms".to_owned()),
        time if time > Duration::from_hours(1) => Err("must be at most 1h".to_owned()),
        time => Ok(time),
    }
}

impl GuardArgs {
    /// Without keys, only this machine may come in.
    pub(super) fn check(&self, listen: SocketAddr) -> Result<(), WrongUse> {
        if self.no_auth && !listen.ip().is_loopback() {
            return Err(WrongUse(format!(
                "--no-auth with --listen {listen} would let everybody in; listen on 127.0.0.1, or \
                 make keys with `order-producer keys create`"
            )));
        }
        Ok(())
    }

    pub(super) fn asks_for_keys(&self) -> bool {
        !self.no_auth
    }

    pub(super) fn connections_max(&self) -> usize {
        usize::try_from(self.max_connections).unwrap_or(1)
    }
}

/// The limits at work.
pub(super) struct Guard {
    no_auth: bool,
    body_bytes: usize,
    request_timeout: Duration,
    places: Arc<Semaphore>,
    by_key: Limiter<String>,
    by_address: Limiter<IpAddr>,
}

impl Guard {
    pub(super) fn new(args: &GuardArgs) -> Self {
        Self {
            no_auth: args.no_auth,
            body_bytes: usize::try_from(args.body_bytes).unwrap_or(usize::MAX),
            request_timeout: args.request_timeout,
            places: Arc::new(Semaphore::new(usize::try_from(args.max_requests).unwrap_or(1))),
            by_key: Limiter::new("key", args.rate_per_key),
            by_address: Limiter::new("address", args.rate_per_address),
        }
    }

    /// How long a request may take.
    pub(super) fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// Bytes and time of a body. A little less than the request's, so that it is told which it was.
    pub(super) fn body_limits(&self) -> (usize, Duration) {
        (self.body_bytes, self.request_timeout.mul_f64(0.9))
    }
}

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) name: String,
    scopes: Vec<String>,
}

/// Lets a request in: if there is room, if its address and key have not come too often, and if its key
/// allows what it asks for.
pub(super) async fn admit(
    State(gateway): State<Arc<Gateway>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let Ok(place) = Arc::clone(&gateway.guard.places).try_acquire_owned() else {
        return Problem::new(Code::Overloaded, "too many requests are under way").into_response();
    };
    // A request whose client has gone has its place until its work has ended.
    PLACE.scope(Arc::new(place), admit_one(&gateway, address, request, next)).await
}

async fn admit_one(
    gateway: &Gateway,
    address: SocketAddr,
    mut request: Request,
    next: Next,
) -> Response {
    let guard = &gateway.guard;
    let mut quotas = Vec::with_capacity(2);
    let now = Instant::now();
    quotas.extend(guard.by_address.take(network_of(address.ip()), now));
    let asked = Asked {
        scope: match *request.method() {
            Method::GET | Method::HEAD => Scope::Read,
            _ => Scope::Write,
        },
        key: request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|value| bearer(value.to_str().ok()?)),
    };
    let mut response = match enter(gateway, asked, &mut quotas).await {
        Ok(client) => {
            request.extensions_mut().insert(client);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    tell_quotas(response.headers_mut(), &quotas);
    response
}

/// What a request asks to be let in for.
struct Asked {
    scope: Scope,
    key: Option<ApiKey>,
}

async fn enter(
    gateway: &Gateway,
    asked: Asked,
    quotas: &mut Vec<Quota>,
) -> Result<Client, Problem> {
    check_quotas(quotas)?;
    let guard = &gateway.guard;
    if guard.no_auth {
        let scopes = [Scope::Read, Scope::Write].map(|scope| scope.as_str().to_owned());
        return Ok(Client { name: NOBODY.to_owned(), scopes: scopes.to_vec() });
    }
    let key = asked.key.ok_or_else(|| {
        unauthorized(
            "send an API key, with authorization: Bearer opk_…; `order-producer keys create` makes one",
        )
    })?;
    let id = key.id.clone();
    let client = undisturbed(client_of(gateway.pool.clone(), key)).await?;
    quotas.extend(guard.by_key.take(id, Instant::now()));
    check_quotas(quotas)?;
    if client.scopes.iter().any(|scope| scope == asked.scope.as_str()) {
        return Ok(client);
    }
    let detail = format!("this takes a key with the scope {}", asked.scope.as_str());
    Err(Problem::new(Code::MissingScope, detail))
}

/// The client of a key that is right and not revoked. Asked each time, so that a revoked key is refused
/// from then on.
async fn client_of(pool: PgPool, key: ApiKey) -> Result<Client, Problem> {
    let found = on_connection(&pool, async |connection| store::find_key(connection, &key.id).await)
        .await
        .map_err(|error| Problem::of_database(&error))?;
    // A key that nobody has is compared as well, so that it takes as long.
    let hash = found.as_ref().map_or(&[0; 32][..], |row| &row.secret_sha256);
    let fits = key.fits(hash);
    match found {
        Some(row) if fits && row.revoked_at.is_none() => {
            Ok(Client { name: row.client, scopes: row.scopes })
        }
        _ => Err(unauthorized("this API key is unknown or revoked")),
    }
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(Code::Unauthorized, detail)
}

/// The address, or the network that one household or machine has of IPv6.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address @ IpAddr::V4(_) => address,
    }
}

fn check_quotas(quotas: &[Quota]) -> Result<(), Problem> {
    let wait = quotas.iter().filter_map(|quota| quota.verdict.err()).max();
    wait.map_or(Ok(()), |seconds| {
        let problem = Problem::new(
            Code::RateLimited,
            format!("try again in {seconds} s; the header RateLimit says what is left"),
        );
        Err(problem.retry_after(seconds))
    })
}

fn tell_quotas(headers: &mut HeaderMap, quotas: &[Quota]) {
    let listed =
        |form: fn(&Quota) -> String| quotas.iter().map(form).collect::<Vec<_>>().join(", ");
    for (name, text) in
        [(RATE_LIMIT_POLICY, listed(Quota::policy)), (RATE_LIMIT, listed(Quota::left))]
    {
        if let Ok(value) = HeaderValue::from_str(&text)
            && !text.is_empty()
        {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_counts_as_one_and_an_ipv4_address_as_itself() {
        let network = |text: &str| network_of(text.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("192.0.2.7"), "192.0.2.7");
        assert_eq!(network("::ffff:192.0.2.7"), "192.0.2.7");
    }
}
