//! What the commands do.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use local_stack::{Endpoints, Kind, Options, Stack, StackError, State, Status};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::tool::ToolArgs;

/// Real Apache Kafka and PostgreSQL on one machine, without Docker.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Which stack: several can run beside each other on other ports.
    #[arg(
        long,
        env = "LOCAL_STACK_NAME",
        global = true,
        default_value = "default",
        value_parser = name,
        hide_env_values = true
    )]
    name: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start both servers in the background and return when they are ready.
    Up(Up),
    /// Stop both servers. Their data is kept for the next `up`.
    Down {
        /// Remove the data too.
        #[arg(long)]
        remove_data: bool,
    },
    /// Stop one server of a stack in the background: an outage. Its data and address stay.
    Stop {
        #[arg(value_enum)]
        server: Server,
    },
    /// Start one server again and return when it is ready.
    Start {
        #[arg(value_enum)]
        server: Server,
    },
    /// Show whether the servers run, and where.
    Status {
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Print the variables that the other commands read, for `eval "$(cargo stack env)"`.
    Env,
    Tool(ToolArgs),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Server {
    Kafka,
    Postgres,
}

impl From<Server> for Kind {
    fn from(server: Server) -> Kind {
        match server {
            Server::Kafka => Kind::Kafka,
            Server::Postgres => Kind::Postgres,
        }
    }
}

#[derive(Debug, clap::Args)]
struct Up {
    /// Kafka's port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 9092)]
    kafka_port: u16,
    /// PostgreSQL's port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 5432)]
    postgres_port: u16,
    /// Added to the broker's settings; can be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    kafka_property: Vec<(String, String)>,
    /// Added to PostgreSQL's settings; can be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    postgres_setting: Vec<(String, String)>,
    /// Stay until ctrl-C, SIGTERM, or the end of a server; the servers end too, also when this
    /// process is killed.
    #[arg(long)]
    foreground: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

pub(crate) fn run(cli: Cli) -> Result<()> {
    let Cli { name, command } = cli;
    match command {
        Command::Up(up) => self::up(&name, up),
        Command::Down { remove_data } => {
            local_stack::down(&name, remove_data)?;
            let data = if remove_data { "Its data is removed." } else { "Its data is kept." };
            eprintln!("The stack `{name}` is down. {data}");
            Ok(())
        }
        Command::Stop { server } => {
            let server = Kind::from(server);
            local_stack::stop_server(&name, server)?;
            eprintln!("{server} of the stack `{name}` is stopped.");
            Ok(())
        }
        Command::Start { server } => start(&name, server.into()),
        Command::Status { output } => print_status(&name, output),
        Command::Env => match local_stack::status(&name)? {
            // A server that is stopped comes back at the same address.
            Some(Status { state: State::Up | State::Broken, endpoints, .. }) => {
                print!("{}", exports(&endpoints));
                Ok(())
            }
            _ => Err(StackError::NotUp { name }.into()),
        },
        Command::Tool(tool) => tool.run(&name),
    }
}

fn start(name: &str, server: Kind) -> Result<()> {
    let started = Instant::now();
    match local_stack::start_server(name, server) {
        // What was asked for is so.
        Err(error @ StackError::AlreadyRunning { .. }) => eprintln!("{error}"),
        other => {
            other?;
            let seconds = started.elapsed().as_secs_f32();
            eprintln!("{server} of the stack `{name}` is ready after {seconds:.1} s.");
        }
    }
    Ok(())
}

fn up(name: &str, up: Up) -> Result<()> {
    let options = Options {
        kafka_port: (up.kafka_port != 0).then_some(up.kafka_port),
        postgres_port: (up.postgres_port != 0).then_some(up.postgres_port),
        kafka_properties: up.kafka_property,
        postgres_settings: up.postgres_setting,
        ..Options::named(name)
    };
    let started = Instant::now();
    let stack = match Stack::start(options) {
        // What was asked for is so.
        Err(error @ StackError::AlreadyUp { .. }) if !up.foreground => {
            eprintln!("{error}");
            return Ok(());
        }
        other => other?,
    };
    let Endpoints { bootstrap_servers, database_url } = stack.endpoints();
    let ready = format!(
        "Ready after {:.1} s: Kafka {bootstrap_servers}, PostgreSQL {database_url}",
        started.elapsed().as_secs_f32()
    );
    if up.foreground {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(async {
            // Who reads that it is ready may send a signal at once. During the start a signal
            // just ends the process, and with it the servers.
            let signals = Signals::listen()?;
            eprintln!("{ready}\nStop it with ctrl-C.");
            stay(&stack, signals).await
        });
    }
    eprintln!("{ready}");
    stack.detach()?;
    let flag = if name == "default" { String::new() } else { format!(" --name {name}") };
    eprintln!(
        "Next:  eval \"$(cargo stack env{flag})\"   sets the variables that the other commands read\n\
         \x20      cargo stack status{flag}       shows how it is\n\
         \x20      cargo stack down{flag}         stops it"
    );
    Ok(())
}

/// The end asked for by a person or a supervisor.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on they no longer end the process by themselves.
    fn listen() -> Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }
}

/// Waits for a signal or the end of a server.
async fn stay(stack: &Stack, mut signals: Signals) -> Result<()> {
    const BETWEEN_LOOKS: Duration = Duration::from_millis(500);
    loop {
        tokio::select! {
            _ = signals.interrupt.recv() => return Ok(()),
            _ = signals.terminate.recv() => return Ok(()),
            () = tokio::time::sleep(BETWEEN_LOOKS) => stack.check()?,
        }
    }
}

fn print_status(name: &str, output: Output) -> Result<()> {
    let status = local_stack::status(name)?;
    match (output, status) {
        (Output::Json, Some(status)) => println!("{}", serde_json::to_string_pretty(&status)?),
        (Output::Json, None) => {
            println!("{}", serde_json::json!({ "name": name, "state": State::Down }));
        }
        (Output::Table, Some(status)) => println!("{}", table(&status)),
        (Output::Table, None) => println!("The stack `{name}` is down."),
    }
    Ok(())
}

fn table(status: &Status) -> comfy_table::Table {
    let runs = |pid: Option<u32>| pid.map_or("not running".to_owned(), |pid| format!("up, {pid}"));
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table
        .set_header(["server", "process", "address"])
        .add_row(["Kafka", &runs(status.kafka_pid), &status.endpoints.bootstrap_servers])
        .add_row(["PostgreSQL", &runs(status.postgres_pid), &status.endpoints.database_url])
        .add_row(["data and logs", "", &status.folder.display().to_string()]);
    table
}

/// Lines for a POSIX shell.
fn exports(endpoints: &Endpoints) -> String {
    format!(
        "export KAFKA_BOOTSTRAP_SERVERS={}\nexport DATABASE_URL={}\n",
        shell_quoted(&endpoints.bootstrap_servers),
        shell_quoted(&endpoints.database_url)
    )
}

fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

fn name(text: &str) -> Result<String, StackError> {
    local_stack::check_name(text).map(|()| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exported_values_survive_a_shell_whatever_they_contain() {
        let value = "it's $HOME `x` \"y\" \\";
        let script = format!("printf %s {}", shell_quoted(value));
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), value);
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
