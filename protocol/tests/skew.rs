//! Neighbouring releases speak to each other: a controller of this build to workers of the last one, and the reverse, while one of them
//! is rolled out before the other. `golden/v1.proto` is what the last release says; whatever either side says, the other understands as
//! much of it as both know.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;

use protox::prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value, prost::Message,
};

/// What this release says and the last one did not, and what it means to a side that hears nothing of it.
const NEW: &[(&str, &str)] = &[
    ("PlanCall.allow_new_state", "nothing new may start empty"),
    ("PlanCall.allow_dropped_state", "nothing may be left behind"),
    ("ToWorker.hold", "sources read on"),
    ("Deploy.owner", "nothing is cleaned"),
    ("Deploy.cluster", "nothing is cleaned"),
    ("Deploy.commits_path", "no record promises anything but the one that is restored"),
    ("Deploy.commits_record", "as commits_path"),
    ("Deploy.accept_lost_output", "lost output ends the job"),
    ("Deploy.part_format", "parts are written in version 1"),
    ("Deploy.allow_new_state", "nothing new may start empty"),
    ("Deploy.allow_dropped_state", "nothing may be left behind"),
    ("Deployed.commits_path", "the worker does not know of it, and what starts from something else is not run on it"),
    ("Acked.part_format", "the part has version 1, and so has the record"),
    ("Acked.slowest_stage", "nobody knows which subtask was the slowest, and the history does not name one"),
    ("Acked.slowest_subtask", "as slowest_stage"),
    ("Acked.slowest_us", "as slowest_stage"),
    ("Stats.pending_commits", "nothing waits, as far as is known"),
];

fn pool(folder: &str, file: &str) -> DescriptorPool {
    let folder = format!("{}/{folder}", env!("CARGO_MANIFEST_DIR"));
    let files = protox::compile([file], [folder]).unwrap();
    DescriptorPool::from_file_descriptor_set(files).unwrap()
}

fn last() -> DescriptorPool {
    pool("tests/golden", "v1.proto")
}

fn this() -> DescriptorPool {
    pool("proto", "weir.proto")
}

/// A value that is not the one that absence means, and another for each.
fn some(kind: &Kind, count: &mut u32) -> Value {
    *count += 1;
    match kind {
        Kind::Bool => Value::Bool(true),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(*count as i32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(i64::from(*count)),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(*count),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(u64::from(*count)),
        Kind::Float => Value::F32(*count as f32),
        Kind::Double => Value::F64(f64::from(*count)),
        Kind::String => Value::String(format!("text {count}")),
        Kind::Bytes => Value::Bytes(vec![*count as u8, 0, 255].into()),
        Kind::Enum(choices) => Value::EnumNumber(choices.values().last().unwrap().number()),
        Kind::Message(message) => Value::Message(filled(message, count).pop().unwrap()),
    }
}

fn value(field: &FieldDescriptor, count: &mut u32) -> Value {
    assert!(!field.is_map(), "{} is a map, which this test does not fill", field.full_name());
    if field.is_list() {
        return Value::List(vec![some(&field.kind(), count), some(&field.kind(), count)]);
    }
    some(&field.kind(), count)
}

/// The message with all that it can hold: once for each alternative, where there are any.
fn filled(message: &MessageDescriptor, count: &mut u32) -> Vec<DynamicMessage> {
    let mut all = DynamicMessage::new(message.clone());
    let (alternatives, plain): (Vec<_>, Vec<_>) =
        message.fields().partition(|field| field.containing_oneof().is_some_and(|oneof| !oneof.is_synthetic()));
    for field in plain {
        let value = value(&field, count);
        all.set_field(&field, value);
    }
    if alternatives.is_empty() {
        return vec![all];
    }
    let with = |field: &FieldDescriptor| {
        let mut message = all.clone();
        let value = value(field, count);
        message.set_field(field, value);
        message
    };
    alternatives.iter().map(with).collect()
}

/// What both sides know of a message is the same to both.
fn agree(here: &DynamicMessage, there: &DynamicMessage) {
    for field in here.descriptor().fields() {
        let Some(other) = there.descriptor().get_field_by_name(field.name()) else { continue };
        assert_eq!(here.has_field(&field), there.has_field(&other), "{}", field.full_name());
        same(field.full_name(), &here.get_field(&field), &there.get_field(&other));
    }
}

fn same(name: &str, here: &Value, there: &Value) {
    match (here, there) {
        (Value::Message(here), Value::Message(there)) => agree(here, there),
        (Value::List(here), Value::List(there)) => {
            assert_eq!(here.len(), there.len(), "{name}");
            here.iter().zip(there).for_each(|(here, there)| same(name, here, there));
        }
        (here, there) => assert_eq!(here, there, "{name}"),
    }
}

/// All that one side can say is heard by the other.
fn hears(speaker: &DescriptorPool, listener: &DescriptorPool) -> usize {
    let mut said = 0;
    for message in speaker.all_messages() {
        // What the other does not know stands in an alternative of a message that it knows, and is passed over there.
        let Some(known) = listener.get_message_by_name(message.full_name()) else { continue };
        for said_so in filled(&message, &mut 0) {
            let heard = DynamicMessage::decode(known.clone(), said_so.encode_to_vec().as_slice());
            let heard = heard.unwrap_or_else(|error| panic!("{}: {error}", message.full_name()));
            agree(&said_so, &heard);
            said += 1;
        }
    }
    said
}

#[test]
fn workers_of_the_last_release_hear_this_builds_controller_and_the_reverse() {
    let (last, this) = (last(), this());
    let messages = last.all_messages().count();
    assert!(hears(&this, &last) >= messages && hears(&last, &this) >= messages);
    for message in last.all_messages() {
        let now = this.get_message_by_name(message.full_name());
        assert!(now.is_some(), "{} is not said any more, and the last release says it", message.full_name());
    }
    for (old, new) in last.services().flat_map(|service| {
        let now = this.get_service_by_name(service.full_name()).unwrap();
        service
            .methods()
            .map(move |method| {
                let new = now.methods().find(|new| new.name() == method.name());
                (method.clone(), new.unwrap_or_else(|| panic!("{} is not served any more", method.full_name())))
            })
            .collect::<Vec<_>>()
    }) {
        let shape = |method: &protox::prost_reflect::MethodDescriptor| {
            let (input, output) = (method.input(), method.output());
            let names = (input.full_name().to_string(), output.full_name().to_string());
            (names, method.is_client_streaming(), method.is_server_streaming())
        };
        assert_eq!(shape(&old), shape(&new), "{}", old.full_name());
    }
}

#[test]
fn what_the_last_release_does_not_say_has_a_meaning_and_no_number_is_used_again() {
    let (last, this) = (last(), this());
    let mut new = BTreeSet::new();
    for message in this.all_messages() {
        let Some(before) = last.get_message_by_name(message.full_name()) else { continue };
        for field in message.fields() {
            let name = format!("{}.{}", message.name(), field.name());
            match before.get_field(field.number()) {
                None => _ = new.insert(name),
                Some(old) => assert_eq!(old.name(), field.name(), "the number of {name} meant something else before"),
            }
        }
        for field in before.fields() {
            let there = message.get_field(field.number()).is_some();
            assert!(there, "{} is gone: the last release still says it", field.full_name());
        }
    }
    let known: BTreeSet<String> = NEW.iter().map(|(name, _)| (*name).to_string()).collect();
    assert_eq!(new, known, "what is new on the left, what is known to be new on the right");
}
