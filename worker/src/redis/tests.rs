//! Against servers that answer as Redis would, or not at all.

use redis::cmd;
use shared::dial::{Destination, DialError, Dialling};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::*;

const LIMIT: Duration = Duration::from_secs(30);

struct Direct;

impl Dial for Direct {
    fn dial<'a>(&'a self, to: &'a Destination) -> Dialling<'a> {
        Box::pin(async move {
            let stream = TcpStream::connect((to.host.as_str(), to.port)).await;
            stream.map_err(|source| DialError::Connect { destination: to.clone(), source })
        })
    }
}

/// A server that answers every read with `answer`; without one it says nothing.
async fn server(answer: Option<String>) -> RedisNode {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::task::spawn_local(async move {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {
                    if let Some(answer) = &answer {
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                }
            });
        }
    });
    RedisNode { host: "127.0.0.1".to_owned(), port }
}

fn client(nodes: Vec<RedisNode>, is_cluster: bool) -> Rc<Redis> {
    let settings = RedisSettings { nodes, is_cluster, ..RedisSettings::default() };
    Redis::new(Rc::new(Direct), &TrustRoots::new(Vec::new()), &settings).unwrap()
}

async fn get(redis: &Redis, limit: Duration) -> Result<String, RedisError> {
    redis.ask(cmd("GET").arg("k"), "k", limit).await
}

#[tokio::test(flavor = "current_thread")]
async fn an_answer_comes_back_and_a_refusal_says_nothing_of_the_connection() {
    let test = async {
        let redis = client(vec![server(Some("+yes\r\n".to_owned())).await], false);
        assert_eq!(get(&redis, LIMIT).await.unwrap(), "yes");
        let redis = client(vec![server(Some("-ERR no\r\n".to_owned())).await], false);
        let told = get(&redis, LIMIT).await.unwrap_err();
        assert!(matches!(told, RedisError::Refused(_)) && !redis.is_away(), "{told:?}");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(flavor = "current_thread")]
async fn one_that_does_not_answer_is_left_alone_for_a_moment() {
    let test = async {
        for node in [server(None).await, RedisNode { host: "127.0.0.1".to_owned(), port: 1 }] {
            let redis = client(vec![node], false);
            let told = get(&redis, Duration::from_millis(50)).await.unwrap_err();
            assert!(!matches!(told, RedisError::Away), "{told:?}");
            assert!(matches!(get(&redis, LIMIT).await, Err(RedisError::Away)));
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_cluster_is_followed_to_the_nodes_of_the_configuration_and_no_others() {
    let test = async {
        let holder = server(Some("+here\r\n".to_owned())).await;
        let moved = format!("-MOVED {} {}\r\n", slot("k"), holder.authority());
        let other = server(Some(moved)).await;
        let redis = client(vec![other.clone(), holder], true);
        assert_eq!(get(&redis, LIMIT).await.unwrap(), "here");
        let redis = client(vec![other], true);
        let told = get(&redis, LIMIT).await.unwrap_err().to_string();
        assert!(told.contains("not in the configuration"), "{told}");
    };
    LocalSet::new().run_until(test).await;
}

#[test]
fn the_slot_of_a_key_is_that_of_its_tag() {
    // From the specification of the cluster, and from `CLUSTER KEYSLOT`.
    assert_eq!(slot("123456789"), 0x31c3);
    assert_eq!(slot("foo"), 12182);
    assert_eq!(slot("a{foo}b"), slot("foo"));
    assert_eq!(slot("a{}b{foo}"), slot("a{}b{foo}"));
    assert_ne!(slot("{}foo"), slot("foo"));
}
