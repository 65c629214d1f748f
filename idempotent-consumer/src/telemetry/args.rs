//! The option that spans are exported by.

use super::export::Exporting;
use crate::cli::WrongUse;

/// Where spans are sent.
#[derive(Clone, Debug, clap::Args)]
pub struct TraceArgs {
    /// Collector that spans of sampled traces are sent to, by OTLP over HTTP, such as
    /// http://localhost:4318. By default none are made
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL", hide_env_values = true)]
    pub otlp_endpoint: Option<String>,
}

impl TraceArgs {
    /// Begins to export spans, as those of `program`, if that is wanted. Within tokio's runtime.
    ///
    /// # Errors
    /// The URL or a variable of OpenTelemetry cannot be used.
    pub fn start(&self, program: &str) -> Result<Exporting, WrongUse> {
        match self.otlp_endpoint.as_deref().filter(|url| !url.is_empty()) {
            Some(url) => Exporting::start(url, program)
                .map_err(|error| WrongUse(format!("--otlp-endpoint: {error}"))),
            None => Ok(Exporting::nothing()),
        }
    }
}
