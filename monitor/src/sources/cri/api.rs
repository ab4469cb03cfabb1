//! The part of the Container Runtime Interface that is asked for: `runtime.v1` of Kubernetes'
//! `cri-api`, its messages with no more of their fields than are read. Written by hand, so that no
//! compiler of protocol files is needed to build.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use hyper::Uri;
use hyper::http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// A message that asks for everything.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct All {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Sandboxes {
    #[prost(message, repeated, tag = "1")]
    pub(super) items: Vec<Sandbox>,
}

/// `PodSandbox`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Sandbox {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(message, optional, tag = "2")]
    pub(super) metadata: Option<SandboxMetadata>,
    /// 0 while it is ready.
    #[prost(int32, tag = "3")]
    pub(super) state: i32,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "4")]
    pub(super) created_at: i64,
    #[prost(map = "string, string", tag = "5")]
    pub(super) labels: HashMap<String, String>,
}

/// `PodSandboxMetadata`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct SandboxMetadata {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) uid: String,
    #[prost(string, tag = "3")]
    pub(super) namespace: String,
}

/// `PodSandboxStatusRequest`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct One {
    #[prost(string, tag = "1")]
    pub(super) id: String,
}

/// `PodSandboxStatusResponse`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Told {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<SandboxStatus>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct SandboxStatus {
    #[prost(message, optional, tag = "5")]
    pub(super) network: Option<SandboxNetwork>,
}

/// `PodSandboxNetworkStatus`: empty where the pod uses its node's.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct SandboxNetwork {
    #[prost(string, tag = "1")]
    pub(super) ip: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) additional: Vec<PodIp>,
}

/// `PodIP`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct PodIp {
    #[prost(string, tag = "1")]
    pub(super) ip: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Containers {
    #[prost(message, repeated, tag = "1")]
    pub(super) containers: Vec<Container>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Container {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) sandbox: String,
    #[prost(message, optional, tag = "3")]
    pub(super) metadata: Option<ContainerMetadata>,
    /// The image's digest, as a rule.
    #[prost(string, tag = "5")]
    pub(super) image: String,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "7")]
    pub(super) created_at: i64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct ContainerMetadata {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

/// `ContainerEventResponse`: that something happened is all that is read.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Event {
    #[prost(string, tag = "1")]
    pub(super) container: String,
}

/// A runtime, by its socket.
pub(super) struct Runtime {
    grpc: Grpc<Channel>,
}

/// More is no node's.
const LARGEST: usize = 64 << 20;

impl Runtime {
    /// # Errors
    /// Nobody answers at the socket within `patience`.
    pub(super) async fn at(
        socket: &Path,
        patience: Duration,
    ) -> Result<Self, tonic::transport::Error> {
        let socket = socket.to_owned();
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The name means nothing: there is one way to the socket.
        let endpoint = Endpoint::from_static("http://runtime").connect_timeout(patience);
        let channel = endpoint.connect_with_connector(connect).await?;
        Ok(Self { grpc: Grpc::new(channel).max_decoding_message_size(LARGEST) })
    }

    pub(super) async fn sandboxes(&mut self) -> Result<Vec<Sandbox>, Status> {
        let listed: Sandboxes =
            self.ask("/runtime.v1.RuntimeService/ListPodSandbox", All {}).await?;
        Ok(listed.items)
    }

    /// The network of a sandbox, which its list does not say.
    pub(super) async fn network(
        &mut self,
        sandbox: &str,
    ) -> Result<Option<SandboxNetwork>, Status> {
        let one = One { id: sandbox.to_owned() };
        let told: Told = self.ask("/runtime.v1.RuntimeService/PodSandboxStatus", one).await?;
        Ok(told.status.and_then(|it| it.network))
    }

    pub(super) async fn containers(&mut self) -> Result<Vec<Container>, Status> {
        let listed: Containers =
            self.ask("/runtime.v1.RuntimeService/ListContainers", All {}).await?;
        Ok(listed.containers)
    }

    /// What happens from now on; runtimes before containerd 1.7 and CRI-O 1.26 have no such list.
    pub(super) async fn events(&mut self) -> Result<Streaming<Event>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/runtime.v1.RuntimeService/GetContainerEvents");
        let codec: ProstCodec<All, Event> = ProstCodec::default();
        let events = self.grpc.server_streaming(Request::new(All {}), path, codec).await?;
        Ok(events.into_inner())
    }

    async fn ask<Q, A>(&mut self, path: &'static str, question: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.ready().await?;
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        let path = PathAndQuery::from_static(path);
        Ok(self.grpc.unary(Request::new(question), path, codec).await?.into_inner())
    }

    async fn ready(&mut self) -> Result<(), Status> {
        let ready = self.grpc.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))
    }
}
