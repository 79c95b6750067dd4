//! Owns reading one value of the file: a choice, a size, a time, a path, an address.
//! Must never know which setting a value is for.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use toml::de::DeValue;

use super::problem::Complaint;
use super::quantity::{self, within};
use crate::units::Nanos;

/// What a value is, in words.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

fn wrong_kind(value: &DeValue<'_>, wanted: &str) -> Complaint {
    Complaint::new(format!("this is {}", kind(value)), format!("write {wanted}"))
}

/// A text.
pub(super) fn text<'v>(value: &'v DeValue<'_>, wanted: &str) -> Result<&'v str, Complaint> {
    value.as_str().ok_or_else(|| wrong_kind(value, wanted))
}

/// `true` or `false`.
pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Complaint> {
    value.as_bool().ok_or_else(|| wrong_kind(value, "true or false, without quotes"))
}

/// A whole number in a range.
pub(super) fn integer(
    allowed: RangeInclusive<u64>,
) -> impl FnOnce(&DeValue<'_>) -> Result<u64, Complaint> {
    move |value| {
        let wanted = format!("a whole number from {} to {}", allowed.start(), allowed.end());
        let number = value.as_integer().ok_or_else(|| wrong_kind(value, &wanted))?;
        let parsed = u64::from_str_radix(number.as_str(), number.radix());
        let parsed = parsed.map_err(|_| {
            Complaint::new(format!("{number} is out of range"), format!("write {wanted}"))
        })?;
        within(parsed, &allowed, |number| number.to_string())
    }
}

/// A size with its unit, in a range of bytes.
pub(super) fn bytes(
    allowed: RangeInclusive<u64>,
) -> impl FnOnce(&DeValue<'_>) -> Result<u64, Complaint> {
    move |value| {
        let wanted = "a size with its unit in quotes, such as \"64MiB\"";
        let text = text(value, wanted)?;
        let parsed = quantity::parse_bytes(text)
            .map_err(|what| Complaint::new(what, format!("write {wanted}")))?;
        within(parsed, &allowed, quantity::show_bytes)
    }
}

/// A rate with its unit, in bytes a second.
pub(super) fn rate(value: &DeValue<'_>) -> Result<u64, Complaint> {
    let wanted = "a rate with its unit in quotes, such as \"10MiB/s\"";
    let refuse = |what| Complaint::new(what, format!("write {wanted}"));
    match quantity::parse_rate(text(value, wanted)?).map_err(refuse)? {
        0 => Err(Complaint::new("a rate of zero never gets anywhere", format!("write {wanted}"))),
        rate => Ok(rate),
    }
}

/// A time with its unit, in a range.
pub(super) fn time(
    allowed: RangeInclusive<u64>,
) -> impl FnOnce(&DeValue<'_>) -> Result<Nanos, Complaint> {
    let allowed = Nanos::from_millis(*allowed.start())..=Nanos::from_millis(*allowed.end());
    move |value| {
        let wanted = "a time with its unit in quotes, such as \"500ms\"";
        let parsed = quantity::parse_time(text(value, wanted)?)
            .map_err(|what| Complaint::new(what, format!("write {wanted}")))?;
        within(parsed, &allowed, quantity::show_time)
    }
}

/// One word of a few.
pub(super) fn choice<T: Copy>(
    words: &'static [(&'static str, T)],
) -> impl FnOnce(&DeValue<'_>) -> Result<T, Complaint> {
    move |value| {
        let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let quoted: Vec<String> = list.iter().map(|word| format!("{word:?}")).collect();
        let wanted = quoted.join(" or ");
        let typed = text(value, &wanted)?;
        let found = words.iter().find(|(word, _)| *word == typed);
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            Complaint::new(format!("{typed:?} is not a choice"), format!("write {wanted}"))
        })
    }
}

/// An absolute path.
pub(super) fn path(value: &DeValue<'_>) -> Result<PathBuf, Complaint> {
    let wanted = "an absolute path in quotes";
    let typed = text(value, wanted)?;
    if typed.contains('\0') {
        return Err(Complaint::new("a path cannot contain a zero byte", format!("write {wanted}")));
    }
    if !typed.starts_with('/') {
        let what = format!("{typed:?} is not an absolute path");
        return Err(Complaint::new(what, "write the whole path, beginning with `/`"));
    }
    Ok(PathBuf::from(typed))
}

/// A text or a list of texts, each parsed by `read`; at least one.
pub(super) fn one_or_more<T>(
    wanted: &'static str,
    read: fn(&str) -> Result<T, Complaint>,
) -> impl FnOnce(&DeValue<'_>) -> Result<Vec<T>, Complaint> {
    move |value| {
        let Some(list) = value.as_array() else {
            return Ok(vec![read(text(value, wanted)?)?]);
        };
        if list.is_empty() {
            return Err(Complaint::new("the list is empty", format!("write {wanted}")));
        }
        list.iter().map(|item| read(text(item.get_ref(), wanted)?)).collect()
    }
}

/// An address to listen on, with its port.
pub(super) fn socket_address(typed: &str) -> Result<SocketAddr, Complaint> {
    typed.parse().map_err(|_| {
        Complaint::new(
            format!("{typed:?} is not an address with a port"),
            "write an IP address and a port, such as \"127.0.0.1:10809\" or \"[::1]:10809\"",
        )
    })
}

/// Where another node can reach this one: an IP address, without a port.
pub(super) fn host(typed: &str) -> Result<IpAddr, Complaint> {
    let bare = typed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(typed);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        if ip.is_unspecified() || ip.is_multicast() {
            let what = format!("{typed} is not the address of one machine");
            return Err(Complaint::new(what, "write the address the other node reaches it at"));
        }
        return Ok(ip);
    }
    if typed.parse::<SocketAddr>().is_ok() || typed.rsplit_once(':').is_some() {
        let what = format!("{typed:?} has a port in it");
        return Err(Complaint::new(what, "write only the address; the port goes to `link_port`"));
    }
    let what = format!("{typed:?} is no IP address");
    let remedy = "write one, for example \"10.0.0.1\" or \"2001:db8::1\"; names are not taken, since \
                  whoever looks them up may be down when a node must find the other";
    Err(Complaint::new(what, remedy))
}
