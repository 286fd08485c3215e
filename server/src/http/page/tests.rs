use super::*;

#[test]
fn pages_one_after_another_are_the_list() {
    let list: Vec<u32> = (0..10).collect();
    for limit in 1..12 {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = Page { limit, after };
            let (entries, next) = page.of(list.clone(), u32::to_string).expect("a page");
            assert!(entries.len() <= limit && !entries.is_empty());
            found.extend(entries);
            after = next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, list, "pages of {limit}");
    }
}

#[test]
fn a_page_after_what_is_not_there_is_refused() {
    let page = Page { limit: 3, after: Some("11".into()) };
    assert!(page.of(vec![1, 2], |entry: &i32| entry.to_string()).is_err());
    let (entries, next) =
        Page { limit: 3, after: None }.of(Vec::<u32>::new(), u32::to_string).expect("an empty one");
    assert!(entries.is_empty() && next.is_none());
}
