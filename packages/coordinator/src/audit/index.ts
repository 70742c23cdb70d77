export { type AuditNote, registerAudit } from './audit-hook.js';
export { type AuditEntry, type AuditFilter, type AuditLog, type AuditRow, createAuditLog } from './audit-log.js';
export { registerAuditRoutes } from './routes.js';
