// A response's bytes as they come. `URLSession.bytes` would do on Apple's systems, but
// Linux has none: a delegate does the same on both.

import Foundation

#if canImport(FoundationNetworking)
    import FoundationNetworking
#endif

final class Transfer: NSObject, URLSessionDataDelegate, @unchecked Sendable {
    // URLSession calls the delegate on one serial queue: no lock is needed.
    private let continuation: AsyncThrowingStream<Data, Error>.Continuation
    private var refused: Int?
    private var complaint = Data()

    private init(_ continuation: AsyncThrowingStream<Data, Error>.Continuation) {
        self.continuation = continuation
    }

    /// Send a request and yield the body; throws `refused` for a status of 400 and more.
    static func start(_ request: URLRequest) -> AsyncThrowingStream<Data, Error> {
        AsyncThrowingStream { continuation in
            let session = URLSession(
                configuration: .ephemeral, delegate: Transfer(continuation),
                delegateQueue: nil)
            let task = session.dataTask(with: request)
            continuation.onTermination = { _ in
                task.cancel()
                session.invalidateAndCancel()  // it would keep its delegate for ever
            }
            task.resume()
        }
    }

    func urlSession(
        _ session: URLSession, dataTask: URLSessionDataTask, didReceive response: URLResponse,
        completionHandler: @escaping (URLSession.ResponseDisposition) -> Void
    ) {
        let status = (response as? HTTPURLResponse)?.statusCode ?? 0
        refused = status >= 400 ? status : nil
        completionHandler(.allow)
    }

    func urlSession(_ session: URLSession, dataTask: URLSessionDataTask, didReceive data: Data) {
        if refused == nil { continuation.yield(data) } else { complaint.append(data) }
    }

    func urlSession(
        _ session: URLSession, task: URLSessionTask, didCompleteWithError error: Error?
    ) {
        if let refused {
            let words = try? JSONDecoder().decode(Complaint.self, from: complaint)
            let message = words?.error.message ?? "no reason was given"
            continuation.finish(throwing: GptOssError.refused(status: refused, message: message))
        } else {
            continuation.finish(throwing: error)
        }
    }
}
