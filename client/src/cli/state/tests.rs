use super::*;

#[test]
fn each_address_has_a_folder_of_its_own_whatever_it_is() {
    for (address, expected) in [
        ("http://127.0.0.1:8080", "127.0.0.1_8080"),
        ("http://127.0.0.1:8080/", "127.0.0.1_8080"),
        ("https://Fedbasin.Example", "fedbasin.example_443"),
        ("http://fedbasin.example", "fedbasin.example_80"),
        ("https://[::1]:8443", "%5B%3A%3A1%5D_8443"),
        ("https://example/a/b", "example_443%2Fa%2Fb"),
        ("https://example/a_b", "example_443%2Fa%5Fb"),
        ("https://example/../x", "example_443%2F..%2Fx"),
    ] {
        assert_eq!(name(&address.parse().unwrap()), expected);
    }
}
