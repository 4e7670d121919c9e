//! Making and refusing schemas.

use state::{Kind, State, StateError};

use crate::database::{TestDatabase, soon};
use crate::fixture::Fixture;

#[tokio::test]
async fn a_database_without_the_schema_is_refused_and_the_remedy_named() {
    let database = TestDatabase::create().await;
    let error = State::connect(&database.config()).await.unwrap_err();
    assert!(matches!(error, StateError::NoSchema), "{error}");
    assert!(error.to_string().contains("coordinator init"), "{error}");
    assert_eq!(error.kind(), Kind::Stop);
}

#[tokio::test]
async fn init_twice_changes_nothing() {
    let (fixture, driven) = Fixture::with_domain().await;
    fixture.state.init().await.unwrap();
    let again = State::connect(&fixture.database.config()).await.unwrap();
    assert_eq!(
        again.migration(&driven.domain).await.unwrap().unwrap().epoch,
        driven.epoch
    );
}

#[tokio::test]
async fn many_inits_at_once_make_one_schema() {
    let database = TestDatabase::create().await;
    let mut states = Vec::new();
    for _ in 0..6 {
        states.push(database.unchecked().await);
    }
    let inits: Vec<_> = states
        .into_iter()
        .map(|state| tokio::spawn(async move { state.init().await }))
        .collect();
    for init in inits {
        soon("init", init).await.unwrap().unwrap();
    }
    State::connect(&database.config()).await.unwrap();
}

#[tokio::test]
async fn an_older_schema_is_refused() {
    let fixture = Fixture::new().await;
    fixture
        .execute("delete from _sqlx_migrations where version = (select max(version) from _sqlx_migrations)")
        .await;
    let error = State::connect(&fixture.database.config()).await.unwrap_err();
    assert!(
        matches!(error, StateError::OldSchema { found, needed } if found < needed),
        "{error}"
    );
}

#[tokio::test]
async fn a_newer_schema_is_refused_only_when_it_asks_for_newer_programs() {
    let fixture = Fixture::new().await;
    fixture
        .execute(
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
             values (900, 'from the future', true, '', 0)",
        )
        .await;
    State::connect(&fixture.database.config()).await.unwrap();
    fixture
        .execute("update schema_compatibility set minimum_version = 900")
        .await;
    let error = State::connect(&fixture.database.config()).await.unwrap_err();
    assert!(
        matches!(
            error,
            StateError::NewSchema {
                found: 900,
                minimum: 900
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn an_unreachable_database_is_worth_another_try_and_its_url_stays_secret() {
    let database = TestDatabase::create().await;
    let mut config = database.config();
    config.url = "postgres://u:hush@127.0.0.1:1/none".to_owned();
    let error = soon("the refusal", State::connect(&config)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Retry);
    assert!(!error.to_string().contains("hush"));
    config.url = "mysql://hush@host".to_owned();
    let error = State::connect(&config).await.unwrap_err();
    assert!(matches!(error, StateError::BadUrl), "{error}");
    assert!(!error.to_string().contains("hush"));
}
