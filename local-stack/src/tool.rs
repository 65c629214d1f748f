//! `tool`: what Kafka's distribution has scripts for.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

/// Run one of Kafka's own tools on the stack's broker; its arguments follow.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  cargo stack tool kafka-console-consumer --topic orders --from-beginning --timeout-ms 3000 \\
    --formatter-property print.key=true --formatter-property print.headers=true")]
pub(crate) struct ToolArgs {
    #[arg(value_enum)]
    tool: Tool,
    /// As the tool wants them; --bootstrap-server is given.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

/// By the names of those scripts.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Tool {
    #[value(name = "kafka-console-consumer")]
    ConsoleConsumer,
    #[value(name = "kafka-console-producer")]
    ConsoleProducer,
    #[value(name = "kafka-topics")]
    Topics,
    #[value(name = "kafka-consumer-groups")]
    ConsumerGroups,
}

impl Tool {
    fn class(self) -> &'static str {
        match self {
            Tool::ConsoleConsumer => "org.apache.kafka.tools.consumer.ConsoleConsumer",
            Tool::ConsoleProducer => "org.apache.kafka.tools.ConsoleProducer",
            Tool::Topics => "org.apache.kafka.tools.TopicCommand",
            Tool::ConsumerGroups => "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
        }
    }
}

impl ToolArgs {
    pub(crate) fn run(self, name: &str) -> Result<()> {
        let mut java = local_stack::kafka_tool(name, self.tool.class())?;
        // In our place, so that it has our terminal, signals and exit code.
        Err(java.args(self.arguments).exec()).context("cannot start java")
    }
}
