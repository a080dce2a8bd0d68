//! What operators' tools ask: health and reflection.

use equipoise::grpc::Options;
use std::time::Duration;
use tokio_stream::once;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb;

use crate::harness::*;

/// Case A10: serving for the whole and for the service by name; an unknown name is NOT_FOUND; NOT_SERVING on shutdown.
#[tokio::test]
async fn health_tells_whether_the_service_serves() {
    let service = Service::with(Options { shutdown_grace: Duration::from_millis(300), ..Options::default() }).await;
    let mut health = HealthClient::new(service.channel().await);
    for name in ["", "equipoise.v1.AccountService"] {
        let request = HealthCheckRequest { service: name.to_owned() };
        assert_eq!(health.check(request).await.unwrap().into_inner().status(), ServingStatus::Serving);
    }
    let unknown = HealthCheckRequest { service: "nobody".to_owned() };
    assert_eq!(health.check(unknown).await.unwrap_err().code(), Code::NotFound);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    service.stop().await;
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
}

/// Both versions of reflection list the service.
#[tokio::test]
async fn reflection_lists_the_service() {
    let service = Service::start().await;
    macro_rules! listed {
        ($version:ident) => {{
            use pb::$version::server_reflection_request::MessageRequest;
            use pb::$version::server_reflection_response::MessageResponse;
            let request = pb::$version::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::ListServices(String::new())),
            };
            let channel = service.channel().await;
            let mut client = pb::$version::server_reflection_client::ServerReflectionClient::new(channel);
            let mut stream = client.server_reflection_info(once(request)).await.unwrap().into_inner();
            let response = stream.message().await.unwrap().unwrap().message_response.unwrap();
            let MessageResponse::ListServicesResponse(services) = response else { panic!("{response:?}") };
            services.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
        }};
    }
    for names in [listed!(v1), listed!(v1alpha)] {
        assert!(names.iter().any(|name| name == "equipoise.v1.AccountService"), "{names:?}");
        assert!(names.iter().any(|name| name == "grpc.health.v1.Health"), "{names:?}");
    }
}
