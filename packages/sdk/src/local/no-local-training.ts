// In place of `local-training` where this package is bundled for a page: what asks for it has refused before.
export {};
