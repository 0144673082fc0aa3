"""What each command does: gather its inputs, call the engine, hand the result to `rnow.display`."""
