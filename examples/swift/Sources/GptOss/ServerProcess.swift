// Runs `mlx-gptoss serve` as a child of the app: it ends with the app, crash or not.

#if os(macOS) || os(Linux)

    import Foundation

    /// A running server; `client` asks it. It is stopped by `stop()`, or with the app.
    public final class ServerProcess: @unchecked Sendable {
        struct Ready: Decodable {
            var url: URL
            var token: String?
            var model: String
        }

        public let client: Client
        public let model: String
        private let process: Process

        private init(_ process: Process, _ ready: Ready) {
            self.process = process
            client = Client(url: ready.url, token: ready.token)
            model = ready.model
        }

        /// Start `command` (the path of mlx-gptoss) for a model, and wait until it
        /// serves: for a large model as long as its weights take to load.
        public static func start(
            command: URL, model: String, arguments: [String] = []
        ) async throws -> ServerProcess {
            let folder = FileManager.default.temporaryDirectory
                .appendingPathComponent("gptoss-\(UUID().uuidString)")
            try FileManager.default.createDirectory(
                at: folder, withIntermediateDirectories: true,
                attributes: [.posixPermissions: 0o700])
            defer { try? FileManager.default.removeItem(at: folder) }
            let readyFile = folder.appendingPathComponent("ready.json")
            let log = folder.appendingPathComponent("log")
            _ = FileManager.default.createFile(atPath: log.path, contents: nil)

            let process = Process()
            process.executableURL = command
            process.arguments =
                [
                    "serve", "-m", model, "--port", "0", "--exit-with-parent",
                    "--ready-file", readyFile.path,
                ] + arguments
            process.standardOutput = FileHandle.nullDevice
            process.standardError = try FileHandle(forWritingTo: log)
            try process.run()
            do {
                while true {
                    // It appears by a rename: once it is there, it is whole.
                    if let data = try? Data(contentsOf: readyFile) {
                        let ready = try JSONDecoder().decode(Ready.self, from: data)
                        return ServerProcess(process, ready)
                    }
                    guard process.isRunning else {
                        let said = (try? String(contentsOf: log, encoding: .utf8)) ?? ""
                        let last = said.split(separator: "\n").last.map(String.init)
                        throw GptOssError.notStarted(last ?? "it said nothing")
                    }
                    try await Task.sleep(nanoseconds: 50_000_000)
                }
            } catch {
                process.terminate()
                throw error
            }
        }

        /// Let running answers end, then end the server.
        public func stop() {
            process.terminate()
            process.waitUntilExit()
        }
    }

#endif
