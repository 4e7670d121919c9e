use hqsql::{Alone, Error};

use crate::database::{EPOCH, Fixture, SHARD, domain};
use crate::rows::{attachment, blob, case, form, operation};

#[tokio::test]
async fn a_purge_leaves_other_domains_and_all_blobs() {
    let fixture = Fixture::new().await;
    let (target, shard) = (&fixture.target, SHARD(&fixture.target));
    target.open_fence(&Alone, &"other".into(), EPOCH).await.unwrap();
    for (name, prefix) in [(domain(), "a"), ("other".into(), "b")] {
        let mut forms: Vec<_> = (0..5).map(|number| form(&format!("{prefix}{number}"))).collect();
        let mut cases: Vec<_> = (0..5).map(|number| case(&format!("{prefix}{number}"))).collect();
        for (number, form) in (1_u128..).zip(&mut forms) {
            form.form.domain = name.to_string();
            form.operations = vec![operation("archive", 1)];
            let case = &mut cases[usize::try_from(number).unwrap() - 1];
            case.case.domain = name.to_string();
            case.attachments = vec![attachment("face", number + u128::from(prefix.as_bytes()[0]) * 100)];
        }
        let mut meta = blob(&format!("{prefix}0"), &format!("key-{prefix}"), 2);
        meta.domain = name.to_string();
        let tx = target.begin(shard, &name, EPOCH).await.unwrap();
        tx.merge_forms(&forms).await.unwrap();
        tx.merge_blobmeta(&[meta], &[]).await.unwrap();
        tx.merge_cases(&cases, &[]).await.unwrap();
        tx.commit().await.unwrap();
    }
    assert!(matches!(
        target.purge_chunk(&Alone, &domain(), 2).await,
        Err(Error::FenceOpen { .. })
    ));
    target.close_fence(&Alone, &domain(), EPOCH).await.unwrap();

    let (mut chunks, mut rows) = (0, 0);
    loop {
        let deleted = target.purge_chunk(&Alone, &domain(), 2).await.unwrap();
        if deleted == 0 {
            break;
        }
        chunks += 1;
        rows += deleted;
    }
    // Five forms with an operation each; five cases with twelve children each.
    assert_eq!((chunks, rows), (6, 5 * 2 + 5 * 13));
    assert!(!target.has_rows(&domain()).await.unwrap());
    assert!(target.has_rows(&"other".into()).await.unwrap());
    for (table, key, expected) in [
        ("form_processor_xforminstancesql", "form_id", 5),
        ("form_processor_xformoperationsql", "form_id", 5),
        ("form_processor_commcarecasesql", "case_id", 5),
        ("form_processor_commcarecaseindexsql", "case_id", 10),
        ("form_processor_caseattachmentsql", "case_id", 5),
        ("form_processor_casetransaction", "case_id", 20),
        ("form_processor_ledgervalue", "case_id", 10),
        ("form_processor_ledgertransaction", "case_id", 15),
    ] {
        let left = fixture
            .rows(&format!(
                "select count(*), min(left({key}, 1)), max(left({key}, 1)) from {table}"
            ))
            .await;
        assert_eq!(left, [format!("{expected}|b|b")], "{table}");
    }
    assert_eq!(
        fixture.rows("select key from blobs_blobmeta order by 1").await,
        ["key-a", "key-b"]
    );
}
