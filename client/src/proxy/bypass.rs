//! `NO_PROXY`, as curl reads it: hosts, domains with all that is below them, addresses, networks, or `*`; separated by commas.

use std::net::IpAddr;

/// Whether a list names this host.
pub(super) fn bypasses(list: &str, host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    let address: Option<IpAddr> = host.parse().ok();
    let named = |entry: &str| match address {
        Some(address) => is_within(entry, address),
        None => is_below(entry, host),
    };
    list.split([',', ' '])
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .any(|entry| entry == "*" || named(entry))
}

/// `example.org`, `.example.org` and `*.example.org` are that domain and all below it.
fn is_below(entry: &str, host: &str) -> bool {
    let domain = entry.strip_prefix('*').unwrap_or(entry);
    let domain = domain.trim_start_matches('.').trim_end_matches('.');
    if domain.is_empty() {
        return false;
    }
    let Some(at) = host.len().checked_sub(domain.len()) else { return false };
    let Some((before, end)) = host.split_at_checked(at) else { return false };
    end.eq_ignore_ascii_case(domain) && (before.is_empty() || before.ends_with('.'))
}

/// An address, or a network such as `10.0.0.0/8`.
fn is_within(entry: &str, address: IpAddr) -> bool {
    let bare = entry.trim_start_matches('[').trim_end_matches(']');
    let Some((network, bits)) = bare.split_once('/') else {
        return bare.parse() == Ok(address);
    };
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    let same = |one: u128, other: u128, width: u32| {
        bits <= width && (bits == 0 || one >> (width - bits) == other >> (width - bits))
    };
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            same(network.to_bits().into(), address.to_bits().into(), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => same(network.to_bits(), address.to_bits(), 128),
        _ => false,
    }
}
