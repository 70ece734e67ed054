//! A YAML document as a tree whose nodes know their place, so that a message can point at the line. It is turned into JSON
//! for everything else.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// Line and column, both from 1; zeros where unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub line: u64,
    pub column: u64,
}

/// A value and where it begins.
#[derive(Clone, Debug)]
pub struct Node {
    pub place: Place,
    pub kind: Kind,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub enum Kind {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<Field>),
}

/// One entry of a map.
#[derive(Clone, Debug)]
pub struct Field {
    pub name: String,
    pub place: Place,
    pub node: Node,
}

/// Reads one document.
pub fn parse(text: &str) -> Result<Node, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options)
}

impl Node {
    /// As JSON. Nulls are left out, as the API server does before it applies defaults.
    pub fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Scalar(value) => value.clone(),
            Kind::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Kind::Map(fields) => {
                let mut map = Map::new();
                for field in fields {
                    let value = field.node.to_json();
                    if !value.is_null() {
                        map.insert(field.name.clone(), value);
                    }
                }
                Value::Object(map)
            }
        }
    }

    /// The place of the field at a dotted path, or of the nearest one above it that is written.
    pub fn place_of(&self, path: &str) -> Place {
        let mut node = self;
        let mut place = self.place;
        for name in path.split(['.', '[', ']']).filter(|name| !name.is_empty()) {
            match &node.kind {
                Kind::Map(fields) => match fields.iter().find(|field| field.name == name) {
                    Some(field) => {
                        place = field.place;
                        node = &field.node;
                    }
                    None => return place,
                },
                Kind::List(items) => match name.parse::<usize>().ok().and_then(|i| items.get(i)) {
                    Some(item) => {
                        place = item.place;
                        node = item;
                    }
                    None => return place,
                },
                Kind::Scalar(_) => return place,
            }
        }
        place
    }
}

fn place(location: serde_saphyr::Location) -> Place {
    Place { line: location.line(), column: location.column() }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Kind>::deserialize(deserializer)?;
        Ok(Self { place: place(spanned.referenced), kind: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KindVisitor;

        impl<'de> Visitor<'de> for KindVisitor {
            type Value = Kind;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("YAML")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
                Ok(Kind::Scalar(Value::Bool(value)))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
                Ok(Kind::Scalar(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
                Ok(Kind::Scalar(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
                Ok(Kind::Scalar(Number::from_f64(value).map_or(Value::Null, Value::Number)))
            }

            fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
                Ok(Kind::Scalar(value.into()))
            }

            fn visit_unit<E>(self) -> Result<Kind, E> {
                Ok(Kind::Scalar(Value::Null))
            }

            fn visit_none<E>(self) -> Result<Kind, E> {
                Ok(Kind::Scalar(Value::Null))
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
                Kind::deserialize(deserializer)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Kind, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Kind::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Kind, A::Error> {
                let mut map = Vec::new();
                while let Some(key) = entries.next_key::<Spanned<String>>()? {
                    let node = entries.next_value()?;
                    map.push(Field { name: key.value, place: place(key.referenced), node });
                }
                Ok(Kind::Map(map))
            }
        }

        deserializer.deserialize_any(KindVisitor)
    }
}
