//! A record to an event.

use std::borrow::Cow;

use crate::error::{EventError, excerpt, excerpt_bytes};
use crate::event::{EventKind, OrderEvent};
use crate::parse::parse_event;
use crate::record::{Attributes, Mode, RecordView};
use crate::structured::Structured;
use crate::text::check_message_id;

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The event.
    pub event: OrderEvent,
    /// The CloudEvents `id` as it stands in the record, if it does and is UTF-8.
    pub id: Option<Cow<'a, str>>,
    /// The CloudEvents `source`, likewise.
    pub source: Option<Cow<'a, str>>,
}

const SPECVERSION: &str = "1.0";
const OWN_DATASCHEMAS: &str = "urn:order-events:";

/// Reads a record in binary or structured mode. In binary mode the value is parsed once; the
/// allocations are those of the event.
///
/// An unknown type is reported before anything about the value, so that a consumer that skips
/// foreign types is not held up by their payloads.
pub fn decode<'a>(record: &RecordView<'a>) -> Result<Decoded<'a>, EventError> {
    let attributes = Attributes::of(record.headers);
    let decoded = match Mode::of(attributes.content_type)? {
        Mode::Binary => decode_binary(record, &attributes)?,
        Mode::Structured => decode_structured(record)?,
    };
    check_key(record.key, &decoded.event)?;
    Ok(decoded)
}

/// An event as its sender wrote it, before anybody made an order record of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawEvent<'a> {
    /// The event.
    pub event: OrderEvent,
    /// Its payload, byte for byte: fields that this version does not know may be in it.
    pub data: &'a [u8],
    /// The sender's `id` of it, if it has one.
    pub id: Option<Cow<'a, str>>,
    /// The sender, likewise.
    pub source: Option<Cow<'a, str>>,
}

/// Reads a value `{"type":…,"id":…?,"source":…?,"data":{…}}`, of which a CloudEvent in structured
/// mode is one. What is around the value, key and headers, says nothing.
pub fn decode_raw(value: Option<&[u8]>) -> Result<RawEvent<'_>, EventError> {
    let envelope = Structured::read(usable_value(value)?)?;
    let event = event_of(&envelope)?;
    if let Some(id) = &envelope.id {
        check_message_id(id).map_err(|error| error.at("/id"))?;
    }
    let data = envelope.data.ok_or_else(|| missing_data(&envelope))?.get().as_bytes();
    Ok(RawEvent { event, data, id: envelope.id, source: envelope.source })
}

/// The type that a record names, without reading its payload; `None` where it names none that
/// is UTF-8. In structured mode the envelope has to be parsed for it.
pub fn event_type<'a>(record: &RecordView<'a>) -> Option<Cow<'a, str>> {
    let attributes = Attributes::of(record.headers);
    match Mode::of(attributes.content_type) {
        Ok(Mode::Structured) => Structured::read(record.value?).ok()?.event_type,
        // A content type that can't be read does not hide the type.
        Ok(Mode::Binary) | Err(_) => text(attributes.event_type),
    }
}

fn decode_binary<'a>(
    record: &RecordView<'a>,
    attributes: &Attributes<'a>,
) -> Result<Decoded<'a>, EventError> {
    let kind = attributes.event_type.map(kind_of).transpose()?;
    let value = usable_value(record.value)?;
    let kind = kind.ok_or(EventError::MissingType)?;
    check_specversion(attributes.specversion)?;
    check_dataschema(kind, attributes.dataschema)?;
    Ok(Decoded {
        event: parse_event(kind, value, "")?,
        id: text(attributes.id),
        source: text(attributes.source),
    })
}

fn decode_structured<'a>(record: &RecordView<'a>) -> Result<Decoded<'a>, EventError> {
    let envelope = Structured::read(usable_value(record.value)?)?;
    let event = event_of(&envelope)?;
    Ok(Decoded { event, id: envelope.id, source: envelope.source })
}

fn event_of(envelope: &Structured<'_>) -> Result<OrderEvent, EventError> {
    let kind = kind_of(envelope.event_type.as_deref().ok_or(EventError::MissingType)?.as_bytes())?;
    check_specversion(envelope.specversion.as_deref().map(str::as_bytes))?;
    check_dataschema(kind, envelope.dataschema.as_deref().map(str::as_bytes))?;
    envelope.check_data_content_type()?;
    let data = envelope.data.ok_or_else(|| missing_data(envelope))?;
    parse_event(kind, data.get().as_bytes(), "/data")
}

fn missing_data(envelope: &Structured<'_>) -> EventError {
    if envelope.data_base64 {
        return EventError::InvalidField {
            pointer: "/data_base64".to_owned(),
            problem: "is not read; send the payload as JSON under data".to_owned(),
        };
    }
    EventError::MissingField { pointer: "/data".to_owned() }
}

fn usable_value(value: Option<&[u8]>) -> Result<&[u8], EventError> {
    match value {
        None => Err(EventError::Tombstone),
        Some([]) => Err(EventError::EmptyValue),
        Some(value) => Ok(value),
    }
}

fn kind_of(name: &[u8]) -> Result<EventKind, EventError> {
    match std::str::from_utf8(name) {
        Ok(name) => EventKind::from_type(name),
        Err(_) => Err(EventError::UnknownType { name: excerpt_bytes(name) }),
    }
}

fn text(bytes: Option<&[u8]>) -> Option<Cow<'_, str>> {
    std::str::from_utf8(bytes?).ok().map(Cow::Borrowed)
}

/// An absent version is taken for the supported one: the payload is checked anyway.
fn check_specversion(version: Option<&[u8]>) -> Result<(), EventError> {
    match version {
        None => Ok(()),
        Some(version) if version == SPECVERSION.as_bytes() => Ok(()),
        Some(version) => Err(EventError::UnsupportedVersion {
            attribute: "specversion",
            version: excerpt_bytes(version),
            supported: SPECVERSION,
        }),
    }
}

/// Of our own schemas only this version can be read. Others' names for theirs say nothing.
fn check_dataschema(kind: EventKind, schema: Option<&[u8]>) -> Result<(), EventError> {
    match schema {
        Some(schema)
            if schema.starts_with(OWN_DATASCHEMAS.as_bytes())
                && schema != kind.dataschema().as_bytes() =>
        {
            Err(EventError::UnsupportedVersion {
                attribute: "dataschema",
                version: excerpt_bytes(schema),
                supported: kind.dataschema(),
            })
        }
        _ => Ok(()),
    }
}

fn check_key(key: Option<&[u8]>, event: &OrderEvent) -> Result<(), EventError> {
    let customer_id = event.customer_id().as_str();
    if key == Some(customer_id.as_bytes()) {
        return Ok(());
    }
    Err(EventError::KeyMismatch {
        key: key.map_or_else(|| "null".to_owned(), |key| format!("\"{}\"", excerpt_bytes(key))),
        customer_id: excerpt(customer_id),
    })
}
