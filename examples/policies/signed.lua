-- Signed releases: every package needs a signature by the release key, and must be a
-- WebAssembly module. Manifests and states need none.
--
--     openssl ecparam -name prime256v1 -genkey -noout -out release.pem
--     openssl ec -in release.pem -pubout -out release.pub
--     theaterref sign worker.wasm --key release.pem -o worker.wasm.sig
local policy = theaterref.policy

return {
  signatures = policy.signed { keys = { "release.pub" }, purposes = { "package" } },
  accept = policy.wasm { module = true },
}
