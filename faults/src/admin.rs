//! What an operator does to topics.

use std::time::Duration;

use anyhow::{Context as _, bail};
use idempotent_consumer::KafkaSettings;
use idempotent_consumer::publish::Topics;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::types::RDKafkaErrorCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Topics of a broker.
pub struct Admin {
    servers: String,
}

impl Admin {
    /// At that address.
    pub fn at(bootstrap_servers: &str) -> Self {
        Self { servers: bootstrap_servers.to_owned() }
    }

    fn client(&self) -> anyhow::Result<AdminClient<DefaultClientContext>> {
        Ok(ClientConfig::new().set("bootstrap.servers", &self.servers).create()?)
    }

    fn topics(&self) -> anyhow::Result<Topics> {
        Ok(Topics::new(&KafkaSettings::new(&self.servers), TIMEOUT)?)
    }

    /// Creates a topic if it is not there.
    pub async fn create(&self, topic: &str, partitions: usize) -> anyhow::Result<()> {
        self.topics()?.ensure(topic, partitions).await?;
        Ok(())
    }

    /// Deletes a topic if it is there.
    pub async fn delete(&self, topic: &str) -> anyhow::Result<()> {
        let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
        for deleted in self.client()?.delete_topics(&[topic], &options).await? {
            match deleted {
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err((_, code)) => bail!("{code}"),
            }
        }
        Ok(())
    }

    /// Sets the size of the largest record.
    pub async fn set_largest(&self, topic: &str, bytes: &str) -> anyhow::Result<()> {
        let change = AlterConfig::new(ResourceSpecifier::Topic(topic));
        let change = change.set("max.message.bytes", bytes);
        let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
        for altered in self.client()?.alter_configs([&change], &options).await? {
            altered.map_err(|(_, code)| anyhow::anyhow!("{code}"))?;
        }
        Ok(())
    }

    /// Ends of the log, by partition.
    pub async fn ends(&self, topic: &str) -> anyhow::Result<Vec<i64>> {
        let (topics, topic) = (self.topics()?, topic.to_owned());
        tokio::task::spawn_blocking(move || {
            let count = topics.partitions(&topic)?.context("the topic is gone")?;
            let ends = (0..i32::try_from(count)?)
                .map(|partition| Ok(topics.watermarks(&topic, partition)?.1));
            ends.collect()
        })
        .await?
    }

    /// Forbids everybody to write to a topic, and allows the rest.
    pub async fn refuse_writes(&self, topic: &str) -> anyhow::Result<()> {
        let mut body = Body::default();
        body.int32(2);
        for (operation, permission) in [(OPERATION_ALL, ALLOW), (OPERATION_WRITE, DENY)] {
            body.int8(RESOURCE_TOPIC).text(topic).int8(PATTERN_LITERAL);
            body.text("User:*").text("*").int8(operation).int8(permission);
        }
        let answer = self.ask(30, body).await?;
        // Throttle time, count, and of each an error code.
        let code = answer.get(8..10).context("a short answer")?;
        if code != [0, 0] {
            bail!("Kafka refuses the ACL: error {code:?}");
        }
        Ok(())
    }

    /// Takes that back.
    pub async fn allow_writes(&self, topic: &str) -> anyhow::Result<()> {
        let mut body = Body::default();
        body.int32(1).int8(RESOURCE_TOPIC).text(topic).int8(PATTERN_LITERAL);
        body.int16(-1).int16(-1).int8(ANY).int8(ANY);
        let answer = self.ask(31, body).await?;
        let code = answer.get(8..10).context("a short answer")?;
        if code != [0, 0] {
            bail!("Kafka does not remove the ACL: error {code:?}");
        }
        Ok(())
    }

    /// One request of version 1, which the client library has no call for.
    async fn ask(&self, api_key: i16, body: Body) -> anyhow::Result<Vec<u8>> {
        let mut request = Body::default();
        request.int16(api_key).int16(1).int32(1).text("faults");
        request.0.extend_from_slice(&body.0);
        let asked = async {
            let mut stream = TcpStream::connect(&self.servers).await?;
            stream.write_u32(u32::try_from(request.0.len())?).await?;
            stream.write_all(&request.0).await?;
            let length = stream.read_u32().await?;
            let mut answer = vec![0; usize::try_from(length)?];
            stream.read_exact(&mut answer).await?;
            // Behind the number of the request.
            anyhow::Ok(answer.split_off(4))
        };
        tokio::time::timeout(TIMEOUT, asked).await?
    }
}

const RESOURCE_TOPIC: i8 = 2;
const PATTERN_LITERAL: i8 = 3;
const OPERATION_ALL: i8 = 2;
const OPERATION_WRITE: i8 = 4;
const DENY: i8 = 2;
const ALLOW: i8 = 3;
const ANY: i8 = 1;

/// Bytes as Kafka's protocol has them.
#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn int8(&mut self, number: i8) -> &mut Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    fn int16(&mut self, number: i16) -> &mut Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    fn int32(&mut self, number: i32) -> &mut Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.int16(i16::try_from(text.len()).unwrap_or(i16::MAX));
        self.0.extend_from_slice(text.as_bytes());
        self
    }
}
