;; A small actor: one exported function that any engine can call.
;; Built with: wat2wasm greeter.wat -o greeter.wasm
(module
  (func (export "answer") (result i32)
    i32.const 6
    i32.const 7
    i32.mul))
