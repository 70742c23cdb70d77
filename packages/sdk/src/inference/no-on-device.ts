// In place of `on-device` where this package is bundled for a page: what asks for it has seen before that there is no Node.
export {};
